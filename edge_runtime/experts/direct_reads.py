"""DirectReads: `SlotReader` in native code, for reads that land where experts are computed from."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from edge_runtime.base.arrays import I32, U8
from edge_runtime.experts.counters import READ_BOUNDS_S, ExpertCounters
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.native import SlotReads
from edge_runtime.experts.reader import SlotReader
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.slot_read import Finished
from edge_runtime.experts.store.base import ExpertKey, ExpertStore, NativeReads, Priority, ReadCancelled
from edge_runtime.experts.store.read_layout import Detail

_log = logging.getLogger(__name__)
OverRead = tuple[int, int, int, int, int, int, int, int, Detail]
"""A read that is over: slot, layer, expert, when it began, how long it took, fault, segments, detail; see `native`."""


def make_reader(residents: Residents, memory: ExpertMemory, store: ExpertStore) -> SlotReader:
    """Return what reads into slots: native where nothing in Python has to see a read on its way."""
    native: NativeReads | None = None
    if memory.space.transfers.lands_in_place and not residents.ledger.sizes.is_whole:
        native = store.native_reads()
    return SlotReader(residents, memory, store) if native is None else DirectReads(residents, memory, store, native)


class DirectReads(SlotReader):
    """Starts and completes reads without tickets: table, drive and addresses meet in native code.

    Does what `SlotReader` does, call by call; a call is whole, so nothing is left half done where one raises.

    Args:
        residents: who is in which slot.
        memory: the slots' memory, which reads land in.
        store: reads for nobody else from now on.
        native: what it gave for that.
    """

    def __init__(self, residents: Residents, memory: ExpertMemory, store: ExpertStore, native: NativeReads) -> None:
        super().__init__(residents, memory, store)
        ledger = residents.ledger
        self._error_of = native.error_of
        self.native = SlotReads(
            self.table, ledger, native.drive, memory, ledger.sizes.core_segments, list(READ_BOUNDS_S)
        )

    @property
    def num_in_flight(self) -> int:
        """Slots with a read under way."""
        return self.native.num_in_flight

    def start(self, layer_idx: int, experts: Sequence[int], tiers: U8, priority: Priority) -> list[int]:
        """See `SlotReader.start`."""
        return self.native.start(layer_idx, experts, tiers, int(priority), self.table.native_rule)

    def prefetch_predicted(self, layer_idx: int, ids: I32, tiers: U8) -> int:
        """Keep what a coming layer is expected to use from eviction, and start reading what is not there.

        Args:
            layer_idx: the layer.
            ids: int32 [T, K], the choice expected, heaviest first: the order of the reads.
            tiers: uint8 [E], the tier each expert is expected to be served at; 0: not used.

        Returns:
            How many experts lack something, also of those that are being read.
        """
        return self.native.prefetch_predicted(layer_idx, ids, tiers, self.table.native_rule)

    def cancel_stale(self, layer_idx: int, tiers: U8) -> None:
        """See `SlotReader.cancel_stale`."""
        self.native.cancel_stale(layer_idx, tiers)

    def promote(self, slot: int) -> None:
        """See `SlotReader.promote`."""
        self.native.promote(slot)

    def collect(self, timeout_s: float) -> list[Finished]:
        """See `SlotReader.collect`."""
        return [self.finished(one) for one in self.native.collect(timeout_s)]

    def finished(self, over: OverRead) -> Finished:
        """Return what a read that is over came to, and tell who wants to know."""
        slot, layer_idx, expert, started_ns, elapsed_ns, fault, first, last, detail = over
        key, error = ExpertKey(layer_idx, expert), None
        if self.watcher is not None:
            self.watcher(key, started_ns, elapsed_ns)
        if fault:
            error = self._error_of(key, (first, last), fault, detail)
            if not isinstance(error, ReadCancelled):
                _log.warning("expert not read: %s", error)
        return Finished(slot, key, error)

    def abort(self, timeout_s: float) -> None:
        """See `SlotReader.abort`."""
        self.native.abort(timeout_s)

    def memory_moved(self) -> None:
        """See `SlotReader.memory_moved`."""
        self.native.memory_moved()

    def count_into(self, counters: ExpertCounters) -> None:
        """See `SlotReader.count_into`."""
        buckets, ns = self.native.tally()
        counters.read_buckets = [a + b for a, b in zip(counters.read_buckets, buckets, strict=True)]
        counters.read_ns += ns
