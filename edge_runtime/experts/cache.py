"""ExpertCache: the experts of a running model. Joins table, memory, drive and eviction behind one stream per layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.errors import BudgetError, ExpertReadError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.record import RecordLayout
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.eviction import EvictionRule
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.reader import SlotReader
from edge_runtime.experts.residency import SlotTable
from edge_runtime.experts.store.base import DEFAULT_READ_TIMEOUT_S, ExpertStore, Priority
from edge_runtime.experts.stream import LayerStream, ReadyBatch
from edge_runtime.experts.units import UnitLedger, UnitSizes
from edge_runtime.policy.base import Decision

if TYPE_CHECKING:
    from typing_extensions import Self


class Resident(NamedTuple):
    """Where the experts of a layer are; valid until something is read.

    Attributes:
        tier: the tier all of them are served at.
        addresses: uint64 [S, 4], address of each segment of each slot.
        slots: int32 [E], slot of each expert of the layer.
    """

    tier: int
    addresses: NDArray[np.uint64]
    slots: NDArray[np.int32]


class ExpertCache:
    """Serves experts layer by layer from a budget of memory. For one thread; implements `ResidencyView`.

    Args:
        ledger: units of memory: which tiers there are and how much they may take; owned from now on. If all its
            experts fit, nothing is booked per token.
        memory: their bytes; owned from now on.
        store: reads segments up to those of the full tier; owned from now on.
        rule: chooses who is evicted.
        num_layers: L, sparse and dense.
        num_experts: E.
        read_timeout_s: longest wait for the next read to finish.
        clock: in nanoseconds, for the time spent waiting.
    """

    def __init__(
        self,
        ledger: UnitLedger,
        memory: ExpertMemory,
        store: ExpertStore,
        rule: EvictionRule,
        *,
        num_layers: int,
        num_experts: int,
        read_timeout_s: float = DEFAULT_READ_TIMEOUT_S,
        clock: Callable[[], int] = perf_counter_ns,
    ) -> None:
        self._clock = clock
        self._ledger, self._memory, self._store, self._rule = ledger, memory, store, rule
        self._all_experts = ledger.max_experts
        self._all_bytes = ledger.max_experts * ledger.sizes.full_bytes
        self._own_bytes = ledger.budget_bytes
        self._read_timeout_s = read_timeout_s
        self._counters = ExpertCounters()
        self._table = SlotTable(ledger, num_layers=num_layers, num_experts=num_experts, rule=rule)
        self._reader = SlotReader(self._table, memory, store, self._counters)
        self._stream: LayerStream | None = None
        self._in_pass = False
        self._resizing_from: int | None = None
        self._is_closed = False

    @classmethod
    def make(
        cls,
        store: ExpertStore,
        rule: EvictionRule,
        layout: RecordLayout,
        spec: ModelSpec,
        *,
        num_slots: int,
        tier: int,
        min_tier: int,
    ) -> Self:
        """Build a cache for a model.

        Args:
            store: see the class.
            rule: see the class.
            layout: of the model's records.
            spec: the model.
            num_slots: S, the budget in experts of the full tier.
            tier: the full tier.
            min_tier: the lowest tier a policy asks for.

        Raises:
            BudgetError: the system refused the address space.
        """
        sizes, sparse = UnitSizes.of(layout, tier, min_tier), len(spec.sparse_layers)
        ledger = UnitLedger(sizes, num_slots * sizes.full_bytes, sparse * spec.num_experts)
        memory = ExpertMemory(ledger, layout.segment_offsets(min_tier))
        return cls(
            ledger, memory, store, rule,
            num_layers=spec.num_layers, num_experts=spec.num_experts
        )  # fmt: skip

    @property
    def nbytes(self) -> int:
        """Bytes the experts may take."""
        return self._memory.nbytes

    @property
    def num_slots(self) -> int:
        """S, experts of the full tier that fit; what is lent on top is not counted."""
        return min(self._own_bytes, self._ledger.budget_bytes) // self._ledger.sizes.full_bytes

    @property
    def borrowed_slots(self) -> int:
        """Experts of the full tier that fit beyond S for now; see `borrow`."""
        return self._ledger.budget_bytes // self._ledger.sizes.full_bytes - self.num_slots

    @property
    def tier(self) -> int:
        """The full tier: the deepest an expert can be resident at."""
        return self._ledger.sizes.full_tier

    @property
    def min_tier(self) -> int:
        """The lowest tier memory is cut for: an expert asked for below it is read and kept at it."""
        return self._ledger.sizes.core_tier

    @property
    def fits_all(self) -> bool:
        """Whether every expert of the model has a slot and nothing is ever evicted; what is lent does not count."""
        return self._own_bytes >= self._all_bytes

    @property
    def counters(self) -> ExpertCounters:
        """Totals since opening, brought up to date when asked for; `snapshot()` stands still."""
        stats = self._store.stats()
        self._table.count_into(self._counters)
        self._counters.bytes_read, self._counters.read_busy_ns = stats.bytes_read, stats.busy_ns
        return self._counters

    def add_decisions(self, decisions: Sequence[Decision]) -> None:
        """Count what policies changed."""
        for decision in decisions:
            self._counters.add_decision(decision, self.tier)

    def add_fallback(self) -> None:
        """Count a pass that ran a second time."""
        self._counters.fallbacks += 1

    @property
    def store_mode(self) -> str:
        """How the drive is read: 'direct', 'buffered', or why it is not direct."""
        return self._store.mode

    @property
    def store_method(self) -> str:
        """What reads are made with: 'io_uring', or 'threads' with the reason."""
        return self._store.method

    def resident_tiers(self, layer_idx: int) -> NDArray[np.uint8]:
        """Return uint8 [E], read-only: the tier each expert of the layer is resident at, 0 if it is not."""
        return self._table.resident_tiers(layer_idx)

    def begin_request(self) -> None:
        """Clear what an abandoned request left, then check the bundle's files unless none is needed any more.

        Raises:
            ExpertReadError: a file is missing or changed, or the drive still owes reads of an earlier request.
        """
        self.finish_reads()
        if self._table.num_resident < self._all_experts:
            self._store.begin_request()

    def finish_reads(self) -> None:
        """Withdraw or await every read under way and unpin everything: then all that was read is counted.

        Raises:
            ExpertReadError: the drive still owes reads.
        """
        self._recover()
        if self._reader.num_in_flight:
            raise ExpertReadError(
                f"drive: {self._reader.num_in_flight} reads of an earlier request have not returned. Check it (dmesg)."
            )

    def begin_sequence(self) -> None:
        """A new text begins: eviction forgets what belongs to the old one; residents stay."""
        self._rule.begin_sequence()

    def begin_pass(self) -> None:
        """A forward pass begins: one token, or one chunk of a prompt. Clears what a failed pass left."""
        if self._in_pass:
            self._recover()
        self._in_pass = True
        self._close_stream()
        self._rule.begin_pass()

    def end_pass(self) -> None:
        """The forward pass is over; nothing stays pinned."""
        self._close_stream()
        self._in_pass = False

    def stream(
        self, layer_idx: int, tiers: NDArray[np.uint8], order: NDArray[np.intp] | None = None
    ) -> Iterator[ReadyBatch]:
        """Serve the experts of one layer; reads of missing ones start before this returns.

        Args:
            layer_idx: a sparse layer.
            tiers: uint8 [E], the tier each expert needed is served at, however deep it is resident; 0: not needed.
            order: the experts needed in the order they count as used, the most recent last; None: by number.

        Returns:
            An iterator of batches, each of one tier: first all residents, then what has been read since (at least one,
            waiting for it), until each expert came once. A batch is valid until the next one is asked for. Iterating
            raises ExpertReadError if a read failed; by then everything is released and the next request may run.
        """
        self._close_stream()
        self._reader.cancel_stale(layer_idx, tiers)
        self._stream = LayerStream(
            self._reader, self._counters, layer_idx, tiers,
            order=order, read_timeout_s=self._read_timeout_s, clock=self._clock,
        )  # fmt: skip
        return self._stream

    def take_resident(
        self, layer_idx: int, tiers: NDArray[np.uint8], order: NDArray[np.intp] | None = None
    ) -> Resident | None:
        """Serve the experts of one layer if all of them are in memory at one tier; else None, and nothing happened.

        Nothing is pinned: they must be computed before anything is read. Arguments as for `stream`.
        """
        tier = self._table.hit_all(layer_idx, tiers)
        if not tier:
            return None
        self._close_stream()
        if not self.fits_all:
            self._reader.cancel_stale(layer_idx, tiers)
            self._table.note_use(layer_idx, tiers, order)
        return Resident(tier, self._memory.addresses, self._table.slots_of(layer_idx))

    def prefetch(
        self, layer_idx: int, experts: Sequence[int], tiers: NDArray[np.uint8], priority: Priority = Priority.NEXT
    ) -> int:
        """Start reading experts nobody asked for yet, as far as there is room.

        Args:
            layer_idx: their layer.
            experts: in order of importance; those being read, or resident at the tier wanted, are passed over.
            tiers: uint8 [E], the tier wanted.
            priority: behind the reads of the layer that runs now.

        Returns:
            How many were started.
        """
        if self._stream is None or self._stream.is_finished:
            self._reader.collect(0.0)  # an open stream settles its own reads, and must see them finish
        table = self._table
        slots, resident = table.slots_of(layer_idx), table.resident_tiers(layer_idx)
        absent = [int(e) for e in experts if resident[e] < tiers[e] and not table.is_reading(int(slots[e]))]
        return len(self._reader.start(layer_idx, absent, tiers, priority)) if absent else 0

    def mask(self, layer_idx: int, experts: Sequence[int]) -> None:
        """Keep experts a coming layer is expected to need from eviction, as far as others may go instead."""
        self._table.mask(layer_idx, [*experts])

    def resize(self, num_slots: int) -> None:
        """Change S between requests. Shrinking truncates and evicts the least valuable and returns memory.

        Raises:
            BudgetError: growing was refused by the system; the former size stays.
            ExpertReadError: the drive still owes reads of an earlier request.
        """
        self._change_budget(num_slots)
        self._own_bytes = self._ledger.budget_bytes
        self._rule.resize(self.num_slots)

    def borrow(self, num_slots: int) -> None:
        """Let experts use so much memory beyond S, between passes, until told otherwise; 0 takes all of it back.

        Raises: as `resize`.
        """
        self._change_budget(self.num_slots + num_slots)

    def _change_budget(self, num_slots: int) -> None:
        self.finish_reads()
        budget_bytes = num_slots * self._ledger.sizes.full_bytes
        self._resizing_from = self._ledger.budget_bytes
        try:
            self._memory.reserve(budget_bytes)
        except BudgetError:
            self._resizing_from = None
            raise
        moves = self._table.resize(budget_bytes)
        self._memory.settle(moves, ((slot, self._table.planes_of(slot)) for slot in range(self._table.num_slots)))
        self._memory.discard(self._ledger.drain_discards())
        self._resizing_from = None

    def close(self) -> None:
        """Stop reading, join the store's threads and return the arena's memory. Safe to call twice."""
        if not self._is_closed:
            if self._resizing_from is None:
                self._close_stream()
                self._reader.abort(self._read_timeout_s)
            self._store.close()
            self._memory.close()
            self._is_closed = True

    def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _recover(self) -> None:
        """Make the state true again, whatever was interrupted before; reads that do not return keep their slots."""
        if self._resizing_from is not None:
            self._table.start_over(self._resizing_from)
            self._memory.start_over()
            self._resizing_from = None
        self._close_stream()
        self._reader.abort(self._read_timeout_s)
        self._in_pass = False
