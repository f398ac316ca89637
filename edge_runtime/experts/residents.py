"""Residents: which experts are in memory, who goes when room is needed, and the counts. No bytes, no drive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.base.arrays import I32, U8
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.record import RecordLayout
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.eviction import EvictionRule, OrderedRule
from edge_runtime.experts.residency import SlotTable
from edge_runtime.experts.units import UnitLedger, UnitSizes, require_base
from edge_runtime.experts.without_ahead import WithoutReadAhead
from edge_runtime.policy.base import Changed, Decision

if TYPE_CHECKING:
    from typing_extensions import Self

_TOLD_EVERY = 8


class Residents:
    """What a cache knows of its experts besides their bytes: table, ledger, eviction rule and counters.

    `ExpertCache` adds memory and a drive; the simulator uses it as it is. For one thread. Implements `ResidencyView`.

    Args:
        ledger: units of memory: which tiers there are and how much they may take; owned from now on. If all its
            experts fit, nothing is booked per token.
        rule: chooses who is evicted.
        num_layers: L, sparse and dense.
        num_experts: E.
        base_layers: layers whose experts are all in memory at the lowest tier from the start on, and never go whole:
            every sparse one, or none. The budget holds them all.
    """

    def __init__(
        self, ledger: UnitLedger, rule: EvictionRule, *, num_layers: int, num_experts: int,
        base_layers: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self.ledger, self.rule, self.base_layers = ledger, rule, tuple(base_layers)
        ledger.keeps_cores = bool(base_layers)
        self.table = SlotTable(
            ledger, num_layers=num_layers, num_experts=num_experts, rule=rule, keeps_cores=bool(base_layers)
        )
        self.totals = ExpertCounters()
        """What is counted besides the table's own counts; `counters` has everything."""
        self.num_experts, self._all_experts = num_experts, ledger.max_experts
        self._all_bytes = ledger.max_experts * ledger.sizes.full_bytes
        self._own_bytes = ledger.budget_bytes
        self.fits_all = self._own_bytes >= self._all_bytes
        """Whether every expert of the model has a slot and nothing is ever evicted; what is borrowed does not count."""
        self.may_shrink = False
        """Whether uses are noted where every expert fits, too: once there is less room, the rule has to know them."""
        self._passes = 0
        self._before: ExpertCounters | None = None

    @classmethod
    def of_model(
        cls,
        spec: ModelSpec,
        layout: RecordLayout,
        rule: EvictionRule,
        *,
        num_slots: int,
        tier: int,
        min_tier: int,
        whole: bool = False,
        keeps_base: bool = False,
    ) -> Self:
        """Build them, all absent, for a model.

        Args:
            spec: the model.
            layout: of its records.
            rule: see the class.
            num_slots: S, the budget in experts of the full tier.
            tier: the full tier.
            min_tier: the lowest tier a policy asks for.
            whole: every expert takes the memory of the full tier, because the memory does not give back pages.
            keeps_base: every expert stays in memory at `min_tier`.

        Raises:
            BudgetError: the budget does not hold that.
        """
        sizes = UnitSizes.of(layout, tier, min_tier, whole=whole)
        ledger = UnitLedger(sizes, num_slots * sizes.full_bytes, len(spec.sparse_layers) * spec.num_experts)
        if keeps_base:
            require_base(sizes, num_slots, all_experts=ledger.max_experts, top_k=spec.top_k)
        base_layers = spec.sparse_layers if keeps_base else ()
        return cls(ledger, rule, num_layers=spec.num_layers, num_experts=spec.num_experts, base_layers=base_layers)

    @property
    def num_slots(self) -> int:
        """S, experts of the full tier that fit; what is borrowed on top is not counted."""
        return min(self._own_bytes, self.ledger.budget_bytes) // self.ledger.sizes.full_bytes

    @property
    def borrowed_slots(self) -> int:
        """Experts of the full tier that fit beyond S for now."""
        return self.ledger.budget_bytes // self.ledger.sizes.full_bytes - self.num_slots

    @property
    def tier(self) -> int:
        """The full tier: the deepest an expert can be resident at."""
        return self.ledger.sizes.full_tier

    @property
    def min_tier(self) -> int:
        """The lowest tier memory is cut for: an expert asked for below it is read and kept at it."""
        return self.ledger.sizes.core_tier

    @property
    def notes_uses(self) -> bool:
        """Whether somebody will have to know what was used: not where nothing is ever evicted."""
        return not self.fits_all or (self.may_shrink and not self.table.skips_uses)

    @property
    def is_complete(self) -> bool:
        """Whether every expert of the model is resident."""
        return self.table.num_resident == self._all_experts

    @property
    def needs_no_reads(self) -> bool:
        """Whether every expert of the model is resident at the full tier."""
        return self.is_complete and self.table.all_resident_at(self.tier)

    @property
    def lacks_base(self) -> bool:
        """Whether every expert should be in memory at the lowest tier, and some are not."""
        return bool(self.base_layers) and not self.is_complete

    def counters(self) -> ExpertCounters:
        """Return totals since the start, as a copy that stands still."""
        found = self.totals.snapshot()
        self.table.count_into(found)
        return found if self._before is None else found.plus(self._before)

    def lookup_counts(self) -> tuple[int, int]:
        """Return (lookups, hits) since the start: `counters` costs more."""
        hits, late, misses, *_ = self.table.tally()
        before = self._before or ExpertCounters()
        return sum(hits) + sum(late) + sum(misses) + before.lookups, sum(hits) + before.hits

    def add_decisions(self, decisions: Sequence[Decision]) -> None:
        """Count what policies changed."""
        totals, tier = self.totals, self.tier
        for decision in decisions:
            totals.add_decision(decision, tier)

    def add_changed(self, changed: Changed) -> None:
        """Count what decisions of native code changed."""
        self.totals.add_changed(changed)

    def add_fallback(self) -> None:
        """Count a pass that ran a second time."""
        self.totals.fallbacks += 1

    def keep_without_ahead(self, wanted: bool) -> None:
        """Whether `resident_tiers` is to leave out of account that experts are read ahead, see `WithoutReadAhead`."""
        if not wanted:
            self.table.without_ahead = None
        elif self.table.without_ahead is None:
            self.table.without_ahead = WithoutReadAhead(self.table, self.rule)

    @property
    def keeps_without_ahead(self) -> bool:
        """Whether `resident_tiers` leaves reads ahead out of account."""
        return self.table.without_ahead is not None

    def resident_tiers(self, layer_idx: int) -> U8:
        """Return uint8 [E], read-only: the tier each expert of the layer is resident at for decisions, 0 if it is not.

        What is in memory now is in `table.resident_tiers`; the two differ while `keeps_without_ahead`.
        """
        return (self.table.without_ahead or self.table).resident_tiers(layer_idx)

    def begin_sequence(self) -> None:
        """A new text begins: eviction forgets what belongs to the old one; residents stay."""
        self.rule.begin_sequence()

    def begin_pass(self, num_tokens: int = 1) -> None:
        """A forward pass of so many tokens begins."""
        if self.table.without_ahead is not None:
            self.table.without_ahead.follow_budget()
        self._passes += 1
        self.table.skips_uses = self._skips_uses(num_tokens)
        if self.table.skips_uses:
            return
        if num_tokens > 1 and isinstance(self.rule, OrderedRule):
            self.rule.begin_tokens(num_tokens)
        else:
            self.rule.begin_pass()

    def _skips_uses(self, num_tokens: int) -> bool:
        """Whether the rule is told nothing of this pass: of tokens that find everything in memory it is told of some.

        That is enough to know who should stay once there is less room, and telling takes some percent of a short token.
        """
        is_told = num_tokens > 1 or self._passes % _TOLD_EVERY == 0 or self.table.without_ahead is not None
        return self.fits_all and self.may_shrink and not is_told

    @property
    def is_permanent(self) -> bool:
        """Whether every expert of the model is resident at the full tier, and none is ever evicted."""
        return self.fits_all and self.needs_no_reads

    def count_hits(self, layer_idx: int, experts: I32) -> None:
        """Count experts int32 [n] of a layer, all resident at the full tier, that were used without asking."""
        tiers = np.zeros(self.num_experts, np.uint8)
        tiers[experts] = self.tier
        self.table.hit_all(layer_idx, tiers)
        if self.may_shrink and not self.table.skips_uses:
            self.table.note_use(layer_idx, tiers, None)

    def finish_reads(self, slots: list[int]) -> int:
        """Take everything these slots lack as read, all at once and in no time; return how many bytes that was."""
        size = self._lacking_bytes(slots)
        for slot in slots:
            self.table.set_ready(slot)
        self.totals.count_read(0, len(slots))
        return size

    def _lacking_bytes(self, slots: list[int]) -> int:
        """Return how many bytes the reads for these slots bring."""
        table, sizes = self.table, self.ledger.sizes
        if not sizes.is_whole:
            return table.lacking_bytes(slots)
        parts = [sizes.lacking_part(table.resident_planes(slot), len(table.planes_of(slot))) for slot in slots]
        return sum(end - start for start, end in parts)

    def own_budget(self) -> None:
        """Take the ledger's present budget as S, nothing of it borrowed, and tell the rule."""
        self._own_bytes = self.ledger.budget_bytes
        self.fits_all = self._own_bytes >= self._all_bytes
        self.rule.resize(self.num_slots)

    def limit_own_budget(self) -> None:
        """Take the ledger's present budget as S if that is less: shrinking ended half-way."""
        if self.ledger.budget_bytes < self._own_bytes:
            self.own_budget()

    def go_on_from(self, counters: ExpertCounters) -> None:
        """Count on from the totals of residents these replace."""
        self._before = counters
