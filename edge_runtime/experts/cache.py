"""ExpertCache: the experts of a running model. Joins slots, memory, drive and eviction behind one stream per layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ExpertReadError
from edge_runtime.experts.arena import ExpertArena
from edge_runtime.experts.base import DEFAULT_READ_TIMEOUT_S, ExpertStore, Priority
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.eviction import EvictionRule
from edge_runtime.experts.reader import SlotReader
from edge_runtime.experts.residency import SlotTable
from edge_runtime.experts.stream import LayerStream, ReadyBatch


class ExpertCache:
    """Serves experts layer by layer from S slots. For one thread; implements `ResidencyView`.

    Args:
        arena: slots of the size of one record prefix at `tier`; owned from now on.
        store: reads that prefix; owned from now on.
        rule: chooses who is evicted.
        num_layers: L, sparse and dense.
        num_experts: E.
        num_expert_layers: sparse layers; if every expert of them fits, nothing is booked per token.
        tier: the tier experts are read and served at.
        read_timeout_s: longest wait for the next read to finish.
    """

    def __init__(
        self,
        arena: ExpertArena,
        store: ExpertStore,
        rule: EvictionRule,
        *,
        num_layers: int,
        num_experts: int,
        num_expert_layers: int,
        tier: int,
        read_timeout_s: float = DEFAULT_READ_TIMEOUT_S,
    ) -> None:
        self.tier = tier
        self._arena, self._store, self._rule = arena, store, rule
        self._all_experts = num_expert_layers * num_experts
        self._read_timeout_s = read_timeout_s
        self._counters = ExpertCounters()
        self._table = SlotTable(
            num_slots=arena.num_slots,
            num_layers=num_layers,
            num_experts=num_experts,
            rule=rule,
            counters=self._counters,
        )
        self._reader = SlotReader(self._table, arena, store, tier)
        self._stream: LayerStream | None = None
        self._is_closed = False

    @property
    def num_slots(self) -> int:
        """S, slots there are."""
        return self._arena.num_slots

    @property
    def fits_all(self) -> bool:
        """Whether every expert of the model has a slot, so that nothing is ever evicted."""
        return self.num_slots >= self._all_experts

    @property
    def counters(self) -> ExpertCounters:
        """Totals since opening; the object is live, `snapshot()` stands still."""
        stats = self._store.stats()
        self._counters.bytes_read, self._counters.read_busy_ns = stats.bytes_read, stats.busy_ns
        return self._counters

    @property
    def store_mode(self) -> str:
        """How the drive is read: 'direct', 'buffered', or why it is not direct."""
        return self._store.mode

    def resident_tiers(self, layer_idx: int) -> NDArray[np.uint8]:
        """Return uint8 [E], read-only: the tier each expert of the layer is resident at, 0 if it is not."""
        return self._table.resident_tiers(layer_idx)

    def begin_request(self) -> None:
        """Clear what an abandoned request left, then check the bundle's files unless none is needed any more.

        Raises:
            ExpertReadError: a file is missing or changed, or the drive still owes reads of an earlier request.
        """
        self._settle()
        if self._table.num_resident < self._all_experts:
            self._store.begin_request()

    def begin_sequence(self) -> None:
        """A new text begins: eviction forgets what belongs to the old one; residents stay."""
        self._rule.begin_sequence()

    def begin_pass(self) -> None:
        """A forward pass begins: one token, or one chunk of a prompt."""
        self._close_stream()
        self._rule.begin_pass()

    def end_pass(self) -> None:
        """The forward pass is over; nothing stays pinned."""
        self._close_stream()

    def stream(self, layer_idx: int, tiers: NDArray[np.uint8]) -> Iterator[ReadyBatch]:
        """Serve the experts of one layer; reads of missing ones start before this returns.

        Args:
            layer_idx: a sparse layer.
            tiers: uint8 [E]; above 0 marks an expert as needed. Each is served at the cache's tier, which must be at
                least what is asked.

        Returns:
            An iterator of batches: first all residents, then what has been read since (at least one, waiting for it),
            until each expert came once. A batch's experts are released when the next one is asked for. Iterating
            raises ExpertReadError if a read failed; by then everything is released and the next request may run.
        """
        self._close_stream()
        experts = np.flatnonzero(tiers)
        if self.fits_all and self._table.resident_tiers(layer_idx)[experts].all():
            return self._serve_resident(layer_idx, experts)
        self._stream = LayerStream(
            self._table, self._arena, self._reader, self._counters, layer_idx, experts,
            tier=self.tier, read_timeout_s=self._read_timeout_s,
        )  # fmt: skip
        return self._stream

    def prefetch(self, layer_idx: int, experts: Iterable[int]) -> int:
        """Start reading experts nobody asked for yet, as far as there is room; return how many reads were started."""
        self._reader.collect(0.0)
        slots = self._table.slots_of(layer_idx)
        absent = [expert for expert in experts if slots[expert] < 0]
        return len(self._reader.start(layer_idx, absent, Priority.NEXT))

    def resize(self, num_slots: int) -> None:
        """Change S between requests. Shrinking evicts the least valuable experts and returns memory to the system.

        Raises:
            BudgetError: growing was refused by the system; the former size stays.
            ExpertReadError: the drive still owes reads of an earlier request.
        """
        self._settle()
        if num_slots > self.num_slots:
            self._arena.resize(num_slots)
            self._table.resize(num_slots)
        else:
            for source, target in self._table.resize(num_slots):
                self._arena.copy(source, target)
            self._arena.resize(num_slots)

    def close(self) -> None:
        """Stop reading, join the store's threads and return the arena's memory. Safe to call twice."""
        if not self._is_closed:
            self._is_closed = True
            self._close_stream()
            self._reader.abort(self._read_timeout_s)
            self._store.close()
            self._arena.close()

    def _serve_resident(self, layer_idx: int, experts: NDArray[np.intp]) -> Iterator[ReadyBatch]:
        """Everything fits and is there: no pins, no scores, two gathers."""
        self._counters.count(self.tier, hits=len(experts))
        if not len(experts):
            return iter(())
        slots = self._table.slots_of(layer_idx)[experts]
        return iter((ReadyBatch(experts.astype(np.int32), self._arena.addresses[slots]),))

    def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _settle(self) -> None:
        """Leave no read under way and nothing pinned."""
        self._close_stream()
        self._reader.abort(self._read_timeout_s)
        if self._reader.num_in_flight:
            raise ExpertReadError(
                f"drive: {self._reader.num_in_flight} reads of an earlier request have not returned. Check it (dmesg)."
            )
