"""ExpertPool: the residents of a cache with their memory and the reads into it; resized and replaced while open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_runtime.backends.kernels import Resident, T
from edge_runtime.backends.token_compute import TokenCompute
from edge_runtime.base.arrays import U8
from edge_runtime.base.errors import BudgetError, ExpertReadError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.experts.base_reads import read_base
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.direct_reads import make_reader
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.store.base import ExpertStore, Priority
from edge_runtime.experts.token_layers import TokenLayers, token_layers_of
from edge_runtime.policy.routing import Router


class ExpertPool:
    """Keeps table, memory and reads in agreement, also where something is interrupted half-way.

    Args:
        residents: which experts are in memory; owned from now on.
        memory: their bytes; owned from now on.
        store: reads them; owned from now on.
        read_timeout_s: longest wait for reads that are to be over.
    """

    def __init__(self, residents: Residents, memory: ExpertMemory, store: ExpertStore, read_timeout_s: float) -> None:
        self.residents, self.memory, self._store, self._read_timeout_s = residents, memory, store, read_timeout_s
        self.reader = make_reader(residents, memory, store)
        self.runs_late = memory.space.runs_late
        self._places: dict[int, list[Resident]] = {}
        self._token_layers: TokenLayers[Any] | None = None  # kept for the next pass
        self._is_permanent = False
        self._changing_from: int | None = None  # the budget before a change that is not over

    def places(self, tier: int) -> list[Resident]:
        """Return of each layer where its experts are, to be served at a tier; the same objects until memory moves."""
        found = self._places.get(tier)
        if found is None:
            table, addresses = self.residents.table, self.memory.addresses
            layers = range(table.num_layers)
            found = self._places[tier] = [Resident(tier, addresses, table.slots_of(layer)) for layer in layers]
        return found

    def counters(self) -> ExpertCounters:
        """Return totals since opening, as a copy that stands still."""
        found, stats = self._counters(), self._store.stats()
        found.bytes_read, found.read_busy_ns = stats.bytes_read, stats.busy_ns
        return found

    def _counters(self) -> ExpertCounters:
        found = self.residents.counters()
        self.reader.count_into(found)
        return found

    def permanent_places(self) -> list[Resident] | None:
        """Return `places` at the full tier if every expert is in memory at it, and none ever goes; else None.

        Whoever computes from them without asking for each layer counts the uses by `Residents.count_hits`.
        """
        if not self._is_permanent:
            self._is_permanent = self.residents.is_permanent
        return self.places(self.residents.tier) if self._is_permanent else None

    def token_layers(self, compute: TokenCompute[T], router: Router, spec: ModelSpec) -> TokenLayers[T] | None:
        """Return what serves a token's layers in native code; None: a part of it has to be asked in Python."""
        self._token_layers = token_layers_of(
            self.residents, self.reader, self._token_layers, compute, router, spec, self._read_timeout_s
        )
        return self._token_layers

    def touch(self, *, whole: bool = False, wait_s: float | None = 0.0) -> None:
        """Take memory from the system: all of it where not every expert fits, else a little ahead of what is used.

        Args:
            whole: all of it in any case.
            wait_s: return after so long at most; None: when it is there.
        """
        self.reader.memory_moved()
        self.memory.touch(is_sure=whole or not self.residents.fits_all, wait_s=wait_s)

    def begin_request(self) -> None:
        """Check the bundle's files unless none is needed any more, and read what has to be in memory and is not.

        Raises:
            ExpertReadError: a file is missing or changed, or a read failed.
        """
        if not self.residents.needs_no_reads:
            self._store.begin_request()
        self.read_base()

    def read_base(self) -> None:
        """Read the lowest tier of every expert, where residents keep it in memory.

        Raises:
            ExpertReadError: a read failed or did not return.
        """
        if self.residents.lacks_base:
            read_base(self.reader, self.residents, self._read_timeout_s)

    def begin_layer(self, layer_idx: int, tiers: U8) -> None:
        """A layer asks for experts uint8 [E], the tier each is served at: reads for it that it does not need end.

        Over a base, what has landed in the background meanwhile serves from now on.
        """
        if self.residents.base_layers and self.reader.num_in_flight:
            self.reader.collect(0.0)
        self.reader.cancel_stale(layer_idx, tiers)

    def prefetch(self, layer_idx: int, experts: Sequence[int], tiers: U8, priority: Priority) -> int:
        """Start reading experts nobody asked for yet, as far as there is room, in this order; return how many."""
        table = self.residents.table
        slots, resident = table.slots_of(layer_idx), table.resident_tiers(layer_idx)
        if priority is Priority.SPECULATIVE and table.without_ahead is not None:
            table.without_ahead.admit(layer_idx, experts, tiers)
        absent = [int(e) for e in experts if resident[e] < tiers[e] and not table.is_reading(int(slots[e]))]
        return len(self.reader.start(layer_idx, absent, tiers, priority)) if absent else 0

    def recover(self) -> None:
        """Make the state true again, whatever was interrupted before; reads that do not return keep their slots."""
        if self._changing_from is not None:
            self._memory_moves()
            self.residents.table.start_over(self._changing_from)
            self.memory.start_over(self.residents.ledger)
            self.reader = make_reader(self.residents, self.memory, self._store)
            self._changing_from = None
        if self.residents.table.without_ahead is not None:
            self.residents.table.without_ahead.recover()
        self.reader.abort(self._read_timeout_s)

    def finish_reads(self) -> None:
        """Cancel or await every read and transfer under way, and wait for kernels; nothing stays pinned.

        Raises:
            ExpertReadError: some reads have not returned.
            DeviceError: kernels failed or did not end.
        """
        self.recover()
        self.reader.in_use.wait(self._read_timeout_s)
        if self.reader.num_in_flight:
            raise ExpertReadError(
                f"drive: {self.reader.num_in_flight} reads of an earlier request have not returned. Check it (dmesg)."
            )

    def change_budget(self, num_slots: int) -> None:
        """Give experts the memory of so many of the full tier; nothing is under way.

        Raises:
            BudgetError: the system refused the memory. The former budget stays, or when shrinking by whole blocks, the
                last one that was reached.
        """
        table, ledger = self.residents.table, self.residents.ledger
        for budget_bytes in self.memory.budgets_to(num_slots * ledger.sizes.full_bytes):
            self._changing_from = ledger.budget_bytes
            self._memory_moves()
            try:
                self.memory.reserve(budget_bytes)
            except BudgetError:
                self._changing_from = None
                self.residents.limit_own_budget()
                raise
            moves = table.resize(budget_bytes)
            self.memory.follow(moves, table.planes_of)
            self.memory.discard(ledger.drain_discards())
            self.memory.touch_on()
            self._changing_from = None

    def start_over(self, residents: Residents) -> None:
        """Forget every expert and go on with others, none resident yet; totals go on. Nothing is under way.

        Raises:
            BudgetError: the system refused the memory; the former residents are forgotten, but go on.
            ExpertReadError: what has to be in memory could not be read; it is when it is needed.
        """
        self._changing_from = self.residents.ledger.budget_bytes  # until all is replaced, recovering forgets all
        self._memory_moves()
        try:
            self.memory.start_over(residents.ledger, is_idle=True)
        except BudgetError:
            self.recover()
            raise
        residents.go_on_from(self._counters())
        self.reader = make_reader(residents, self.memory, self._store)
        self.residents, self._changing_from = residents, None
        self.read_base()

    def close(self) -> None:
        """Stop reading, join the store's threads and return all memory."""
        if self._changing_from is None:
            self.reader.abort(self._read_timeout_s)
            self.reader.in_use.give_up()
            self.reader.memory_moved()
        self._store.close()
        self.memory.close()

    def _memory_moves(self) -> None:
        self._places, self._is_permanent = {}, False
        self.reader.memory_moved()
