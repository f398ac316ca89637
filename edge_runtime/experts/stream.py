"""LayerStream: hands out one layer's experts as they become ready, residents first, reading the others meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter_ns
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ExpertReadError
from edge_runtime.experts.arena import ExpertArena
from edge_runtime.experts.base import Priority
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.reader import SlotReader
from edge_runtime.experts.residency import SlotTable


class ReadyBatch(NamedTuple):
    """Experts that may be computed now.

    Attributes:
        experts: int32 [n].
        segments: uint64 [n, 4], address of each segment, 0 where the tier has none. Valid until the next batch is
            asked for.
    """

    experts: NDArray[np.int32]
    segments: NDArray[np.uint64]


class LayerStream(Iterator[ReadyBatch]):
    """Every expert asked for comes exactly once, in one batch; reads start in the constructor.

    A batch's experts stay pinned until the next one is asked for. If the experts are more than the slots, reads go
    in waves as slots are released.

    Args:
        table: who is in which slot.
        arena: the slots' memory.
        reader: starts and settles reads.
        counters: where lookups and waiting are counted.
        layer_idx: the layer.
        experts: intp [n], distinct.
        tier: the tier they are served at.
        read_timeout_s: longest wait for the next read to finish.
    """

    def __init__(
        self,
        table: SlotTable,
        arena: ExpertArena,
        reader: SlotReader,
        counters: ExpertCounters,
        layer_idx: int,
        experts: NDArray[np.intp],
        *,
        tier: int,
        read_timeout_s: float,
    ) -> None:
        self._table, self._arena, self._reader, self._counters = table, arena, reader, counters
        self._layer_idx, self._read_timeout_s = layer_idx, read_timeout_s
        found = table.lookup(layer_idx, experts, tier)
        self._residents = found.ready_experts, found.ready_slots
        self._ready: list[int] = []
        self._handed_out: NDArray[np.int32] = found.ready_slots[:0]
        self._awaited: set[int] = set(found.late_slots.tolist())
        self._missing: list[int] = found.missing.tolist()
        self.is_finished = False
        for slot in self._awaited:
            reader.promote(slot)
        self._start_reads()

    def __next__(self) -> ReadyBatch:
        """Release the last batch and return the next.

        Raises:
            ExpertReadError: a read failed or did not finish in time; everything was released.
        """
        if self.is_finished:
            raise StopIteration
        experts, slots = self._residents
        if len(slots):
            self._residents = experts[:0], slots[:0]
            return self._hand_out(experts, slots)
        self._release()
        self._start_reads()
        try:
            self._gather()
        except BaseException:
            self.close()
            raise
        if not self._ready:
            self.is_finished = True
            raise StopIteration
        slots = np.array(self._ready, np.int32)
        self._ready = []
        return self._hand_out(self._table.experts_in(slots), slots)

    def close(self) -> None:
        """Give up: withdraw or await reads, unpin everything. Safe at any time, more than once."""
        if not self.is_finished:
            self.is_finished = True
            self._missing.clear()
            self._reader.abort(self._read_timeout_s)
            self._table.unpin_all()

    def _hand_out(self, experts: NDArray[np.intp], slots: NDArray[np.int32]) -> ReadyBatch:
        self._handed_out = slots
        return ReadyBatch(experts.astype(np.int32), self._arena.addresses.take(slots, axis=0))

    def _release(self) -> None:
        if len(self._handed_out):
            self._table.unpin(self._handed_out)
            self._handed_out = self._handed_out[:0]

    def _start_reads(self) -> None:
        if self._missing:
            slots = self._reader.start(self._layer_idx, self._missing, Priority.NOW)
            self._awaited.update(slots)
            del self._missing[: len(slots)]

    def _gather(self) -> None:
        """Take what finished; wait only if there is nothing to hand out yet."""
        if self._awaited:
            self._take(0.0)
        while not self._ready and (self._awaited or self._missing):
            started = perf_counter_ns()
            self._take(self._read_timeout_s)
            self._counters.stall_ns += perf_counter_ns() - started
            self._start_reads()

    def _take(self, timeout_s: float) -> None:
        finished = self._reader.collect(timeout_s) if self._reader.num_in_flight else []
        if not finished and timeout_s > 0:
            raise ExpertReadError(
                f"layer {self._layer_idx}: expected one of {self._reader.num_in_flight} reads to finish within "
                f"{timeout_s:g} s, none did. Check the drive (dmesg)."
            )
        for slot, _, error in finished:
            if slot in self._awaited:
                self._awaited.remove(slot)
                if error is not None:
                    raise error
                self._ready.append(slot)
