"""ExpertCache: the experts of a running model. Joins table, memory, drive and eviction behind one stream per layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter_ns
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.errors import BudgetError, ExpertReadError
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.reader import SlotReader
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.store.base import DEFAULT_READ_TIMEOUT_S, ExpertStore, Priority
from edge_runtime.experts.stream import LayerStream, ReadyBatch
from edge_runtime.policy.base import Decision


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
        residents: which experts are in memory, and which tiers there are; owned from now on.
        memory: their bytes; owned from now on.
        store: reads segments up to those of the full tier; owned from now on.
        read_timeout_s: longest wait for the next read to finish.
        clock: in nanoseconds, for the time spent waiting.
    """

    def __init__(
        self,
        residents: Residents,
        memory: ExpertMemory,
        store: ExpertStore,
        *,
        read_timeout_s: float = DEFAULT_READ_TIMEOUT_S,
        clock: Callable[[], int] = perf_counter_ns,
    ) -> None:
        self._clock, self._read_timeout_s = clock, read_timeout_s
        self._residents, self._memory, self._store = residents, memory, store
        self._reader = SlotReader(residents, memory, store)
        self._stream: LayerStream | None = None
        self._in_pass = False
        self._resizing_from: int | None = None
        self._is_closed = False

    @property
    def residents(self) -> Residents:
        """Which experts are in memory; replaced by `start_over`."""
        return self._residents

    @property
    def nbytes(self) -> int:
        """Bytes the experts may take."""
        return self._memory.nbytes

    @property
    def num_slots(self) -> int:
        """S, experts of the full tier that fit; what is borrowed on top is not counted."""
        return self._residents.num_slots

    @property
    def borrowed_slots(self) -> int:
        """Experts of the full tier that fit beyond S for now; see `borrow`."""
        return self._residents.borrowed_slots

    @property
    def tier(self) -> int:
        """The full tier: the deepest an expert can be resident at."""
        return self._residents.tier

    @property
    def min_tier(self) -> int:
        """The lowest tier memory is cut for: an expert asked for below it is read and kept at it."""
        return self._residents.min_tier

    @property
    def fits_all(self) -> bool:
        """Whether every expert of the model has a slot and nothing is ever evicted; what is borrowed does not count."""
        return self._residents.fits_all

    @property
    def is_reading(self) -> bool:
        """Whether a read is under way."""
        return self._reader.num_in_flight > 0

    @property
    def counters(self) -> ExpertCounters:
        """Totals since opening, as a copy that stands still."""
        found, stats = self._residents.counters(), self._store.stats()
        found.bytes_read, found.read_busy_ns = stats.bytes_read, stats.busy_ns
        return found

    def lookup_counts(self) -> tuple[int, int]:
        """Return (lookups, hits) since opening: `counters` costs more."""
        return self._residents.lookup_counts()

    def add_decisions(self, decisions: Sequence[Decision]) -> None:
        """Count what policies changed."""
        self._residents.add_decisions(decisions)

    def add_fallback(self) -> None:
        """Count a pass that ran a second time."""
        self._residents.add_fallback()

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
        return self._residents.resident_tiers(layer_idx)

    def begin_request(self) -> None:
        """Clear what an abandoned request left, then check the bundle's files unless none is needed any more.

        Raises:
            ExpertReadError: a file is missing or changed, or the drive still owes reads of an earlier request.
        """
        self.finish_reads()
        if not self._residents.is_complete:
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
        self._residents.begin_sequence()

    def begin_pass(self) -> None:
        """A forward pass begins: one token, or one chunk of a prompt. Clears what a failed pass left."""
        if self._in_pass:
            self._recover()
        self._in_pass = True
        self._close_stream()
        self._residents.begin_pass()

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
            self._reader, layer_idx, tiers,
            order=order, read_timeout_s=self._read_timeout_s, clock=self._clock,
        )  # fmt: skip
        return self._stream

    def take_resident(
        self, layer_idx: int, tiers: NDArray[np.uint8], order: NDArray[np.intp] | None = None
    ) -> Resident | None:
        """Serve the experts of one layer if all of them are in memory at one tier; else None, and nothing happened.

        Nothing is pinned: they must be computed before anything is read. Arguments as for `stream`.
        """
        residents = self._residents
        tier = residents.hit_all(layer_idx, tiers)
        if not tier:
            return None
        self._close_stream()
        if not residents.fits_all:
            self._reader.cancel_stale(layer_idx, tiers)
            residents.note_hits(layer_idx, tiers, order)
        return Resident(tier, self._memory.addresses, residents.table.slots_of(layer_idx))

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
        table = self._residents.table
        slots, resident = table.slots_of(layer_idx), table.resident_tiers(layer_idx)
        absent = [int(e) for e in experts if resident[e] < tiers[e] and not table.is_reading(int(slots[e]))]
        return len(self._reader.start(layer_idx, absent, tiers, priority)) if absent else 0

    def mask(self, layer_idx: int, experts: Sequence[int]) -> None:
        """Keep experts a coming layer is expected to need from eviction, as far as others may go instead."""
        self._residents.table.mask(layer_idx, [*experts])

    def resize(self, num_slots: int) -> None:
        """Change S between requests. Shrinking truncates and evicts the least valuable and returns memory.

        Raises:
            BudgetError: growing was refused by the system; the former size stays.
            ExpertReadError: the drive still owes reads of an earlier request.
        """
        self._change_budget(num_slots)
        self._residents.own_budget()

    def borrow(self, num_slots: int) -> None:
        """Let experts use so much memory beyond S, between passes, until told otherwise; 0 takes all of it back.

        Raises: as `resize`.
        """
        self._change_budget(self.num_slots + num_slots)

    def start_over(self, residents: Residents) -> None:
        """Forget every expert and serve from others, none resident yet; totals go on. What was borrowed is given back.

        Args:
            residents: for the same model and store: another rule, lowest tier or budget.

        Raises:
            BudgetError: the system refused the address space; the former residents are forgotten, but go on.
            ExpertReadError: the drive still owes reads of an earlier request.
        """
        self.finish_reads()
        self._resizing_from = self._residents.ledger.budget_bytes  # until all is replaced, recovering forgets all
        try:
            self._memory.start_over(residents.ledger)
        except BudgetError:
            self._recover()
            raise
        residents.go_on_from(self._residents.counters())
        self._reader = SlotReader(residents, self._memory, self._store)
        self._residents, self._resizing_from = residents, None

    def _change_budget(self, num_slots: int) -> None:
        self.finish_reads()
        table, ledger = self._residents.table, self._residents.ledger
        budget_bytes = num_slots * ledger.sizes.full_bytes
        self._resizing_from = ledger.budget_bytes
        try:
            self._memory.reserve(budget_bytes)
        except BudgetError:
            self._resizing_from = None
            raise
        moves = table.resize(budget_bytes)
        self._memory.follow(moves, ((slot, table.planes_of(slot)) for slot in range(table.num_slots)))
        self._memory.discard(ledger.drain_discards())
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
            self._residents.table.start_over(self._resizing_from)
            self._memory.start_over(self._residents.ledger)
            self._reader = SlotReader(self._residents, self._memory, self._store)
            self._resizing_from = None
        self._close_stream()
        self._reader.abort(self._read_timeout_s)
        self._in_pass = False
