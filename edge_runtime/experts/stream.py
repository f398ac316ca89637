"""LayerStream: hands out one layer's experts as they become ready, residents first, reading the others meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter_ns
from typing import NamedTuple

import numpy as np

from edge_runtime.base.arrays import I32, U8, U64, Indices
from edge_runtime.base.errors import ExpertReadError
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.reader import SlotReader
from edge_runtime.experts.store.base import Priority, ReadCancelled


class ReadyBatch(NamedTuple):
    """Experts that may be computed now.

    Attributes:
        experts: int32 [n].
        tier: the tier all of them are served at.
        segments: uint64 [n, 4], address of each segment, 0 where the tier has none. Valid until the next batch is
            asked for.
    """

    experts: I32
    tier: int
    segments: U64


class LayerStream(Iterator[ReadyBatch]):
    """Every expert asked for comes exactly once, in one batch of its tier; reads start in the constructor.

    A batch's experts stay pinned until all that became ready with them were handed out and the next is asked for. If
    the experts are more than fit, reads go in waves as slots are released.

    Args:
        reader: starts and completes reads; knows the slots, their memory and where waiting is counted.
        layer_idx: the layer.
        tiers: uint8 [E], the tier each expert needed is served at; 0: not needed.
        order: the experts in the order they count as used, or None.
        topk_ids: int32 [T, K], what each token uses, or None.
        read_timeout_s: longest wait for the next read to finish.
        overlaps: hand out what is ready while others are being read; if not, a wave is read before any of it goes out.
        clock: in nanoseconds, for the time spent waiting.
    """

    def __init__(
        self,
        reader: SlotReader,
        layer_idx: int,
        tiers: U8,
        *,
        order: Indices | None,
        topk_ids: I32 | None,
        read_timeout_s: float,
        overlaps: bool = True,
        clock: Callable[[], int] = perf_counter_ns,
    ) -> None:
        self._table, self._memory, self._reader, self._totals = reader.table, reader.memory, reader, reader.totals
        self._tiers, self._clock = tiers, clock
        self._layer_idx, self._read_timeout_s, self._overlaps = layer_idx, read_timeout_s, overlaps
        found = self._table.lookup(layer_idx, tiers, order, topk_ids)
        self._batches = batches(found.ready_experts, found.ready_slots, tiers, self._memory)
        self._ready: list[int] = []
        self._handed_out = found.ready_slots
        self._awaited = set(found.late_slots)
        if reader.runs_late:
            reader.in_use.hold(found.ready_slots + found.late_slots)
        self._missing = found.missing
        self.is_finished = False
        for slot in self._awaited:
            reader.promote(slot)
        self._start_reads()

    @property
    def has_resident(self) -> bool:
        """Whether the next batch is there already and can be computed while others are being read."""
        return self._overlaps and bool(self._batches)

    def __next__(self) -> ReadyBatch:
        """Release the last batch and return the next.

        Raises:
            ExpertReadError: a read failed or did not finish in time; everything was released.
        """
        if self.is_finished:
            raise StopIteration
        try:
            if not self._overlaps:
                self._await_reads()
            if self._batches:
                return self._batches.pop(0)
            self._release()
            self._start_reads()
            self._gather()
        except BaseException:
            self.close()
            raise
        if not self._ready:
            self.is_finished = True
            raise StopIteration
        self._handed_out, self._ready = self._ready, []
        experts = self._table.experts_in(self._handed_out)
        self._batches = batches(experts, self._handed_out, self._tiers, self._memory)
        return self._batches.pop(0)

    def close(self) -> None:
        """Give up: cancel or await reads, unpin everything. Safe at any time, more than once."""
        if not self.is_finished:
            self.is_finished = True
            self._missing.clear()
            self._batches.clear()
            self._reader.abort(self._read_timeout_s)

    def _release(self) -> None:
        if self._handed_out:
            self._reader.release(self._handed_out)
            self._handed_out = []

    def _start_reads(self) -> None:
        if self._missing:
            slots = self._reader.start(self._layer_idx, self._missing, self._tiers, Priority.NOW)
            self._awaited.update(slots)
            del self._missing[: len(slots)]

    def _gather(self) -> None:
        """Take what finished; wait only if there is nothing to hand out yet."""
        if self._awaited:
            self._take(0.0)
            self._start_reads()
        while not self._ready and (self._awaited or self._missing):
            self._wait()
        if not self._overlaps:
            self._await_reads()

    def _await_reads(self) -> None:
        """Wait for everything that is being read."""
        while self._awaited:
            self._wait()

    def _wait(self) -> None:
        started = self._clock()
        self._take(self._read_timeout_s)
        self._totals.stall_ns += self._clock() - started
        self._start_reads()

    def _take(self, timeout_s: float) -> None:
        finished = self._reader.collect(timeout_s) if self._reader.num_in_flight else []
        if not finished and timeout_s > 0:
            raise ExpertReadError(
                f"layer {self._layer_idx}: expected one of {self._reader.num_in_flight} reads to finish within "
                f"{timeout_s:g} s, none did. Check the drive (dmesg)."
            )
        for slot, key, error in finished:
            if slot in self._awaited:
                self._awaited.remove(slot)
                if isinstance(error, ReadCancelled):
                    self._missing.append(key.expert_idx)  # given up when it was not wanted, and still under way
                elif error is not None:
                    raise error
                elif self._table.resident_tiers(self._layer_idx)[key.expert_idx] < self._tiers[key.expert_idx]:
                    self._missing.append(key.expert_idx)  # a read begun earlier, for a lower tier
                    self._reader.release([slot])
                else:
                    self._ready.append(slot)


def batches(experts: list[int], slots: list[int], tiers: U8, memory: ExpertMemory) -> list[ReadyBatch]:
    """Group n experts in n slots by the tier they are served at, which `tiers` uint8 [E] says; deepest first."""
    ids, places = np.array(experts, np.int32), np.array(slots, np.intp)
    served = tiers.take(ids)
    found = set(served.tobytes())
    if len(found) == 1:
        return [ReadyBatch(ids, found.pop(), memory.addresses.take(places, axis=0))]
    groups = ((tier, served == tier) for tier in sorted(found, reverse=True))
    return [ReadyBatch(ids[mine], tier, memory.addresses.take(places[mine], axis=0)) for tier, mine in groups]
