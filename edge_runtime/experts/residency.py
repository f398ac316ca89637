"""SlotTable: which expert is in which slot, at which tier, pinned or being read, and who goes when room is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from edge_runtime.base.arrays import F32, F64, I32, I64, U8, Keys
from edge_runtime.base.errors import BudgetError
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.eviction.base import EvictionRule, NativeRule, OrderedRule, TruncatingRule
from edge_runtime.experts.native import Table, UseForecast
from edge_runtime.experts.units import UnitLedger

Scores = F32 | F64
ScoresOf = Callable[[int], tuple[Scores, Scores | None]]
TopOf = Callable[[int, int, int], float]


class Lookup(NamedTuple):
    """Where the experts a layer asked for are.

    Attributes:
        ready_experts: experts resident at the tier asked for or deeper, ascending.
        ready_slots: their slots, pinned.
        late_slots: slots whose read is under way; pinned.
        missing: experts to read, or to deepen, ascending.
    """

    ready_experts: list[int]
    ready_slots: list[int]
    late_slots: list[int]
    missing: list[int]


class ResizeMoves(NamedTuple):
    """(source, target) pairs whose bytes the caller copies before units past the new counts disappear."""

    cores: list[tuple[int, int]]
    planes: list[tuple[int, int]]


class TableBeside(Protocol):
    """Goes through the same requests, but nothing is read ahead: `without_ahead.WithoutReadAhead`."""

    @property
    def table(self) -> SlotTable:
        """What native code takes through the requests by itself, as `serve` would."""
        ...

    def resident_tiers(self, layer_idx: int) -> U8:
        """See `SlotTable.resident_tiers`."""
        ...

    def serve(self, layer_idx: int, tiers: U8) -> None:
        """A layer asks for experts uint8 [E], the tier each is served at."""
        ...

    def admit(self, layer_idx: int, experts: Sequence[int], tiers: U8) -> None:
        """Experts are read although no layer asked for them."""
        ...

    def follow_budget(self) -> None:
        """Between two passes: take as much memory as the table has."""
        ...

    def recover(self) -> None:
        """Let go of what an interrupted pass had pinned or begun to take in."""
        ...


class SlotTable(Table):
    """Slots that are looked up, claimed, and made room for: the native table with the rule that says who goes.

    A slot is free, being read, or holds a resident expert; it may be pinned. It is a core of the ledger, with the
    planes its expert has beyond it. A resident whose deeper planes are being read stays resident at its tier meanwhile.
    If the ledger has planes, as many whole experts go as cores are wanted, coldest first, and the rest of the room is
    made by truncating: the colder half of what may go, coldest first, loses its planes. Where experts have
    256 KiB or more, free units of the other size stay as they are, up to a 32nd of the budget, so memory seldom changes
    between the two sizes. A rule that scores planes (`TruncatingRule`) orders both itself.

    Args:
        ledger: units of memory; owned from now on.
        num_layers: L.
        num_experts: E.
        rule: chooses who goes; told of every use.
        keeps_cores: experts lose planes, and never go whole.
    """

    def __init__(
        self, ledger: UnitLedger, *, num_layers: int, num_experts: int, rule: EvictionRule, keeps_cores: bool = False
    ) -> None:
        # the native side writes these; views of them are all that is handed out
        tiers, slots = np.zeros((num_layers, num_experts), np.uint8), np.zeros((num_layers, num_experts), np.int32)
        self._keys = np.zeros(ledger.max_experts, np.int64)
        super().__init__(ledger, tiers, slots, self._keys)
        self.uses: I64 | None = None
        """Counts uses int64 [L, E], where somebody wants to know; nothing is counted where every expert fits."""
        self.skips_uses = False
        """Whether the rule is told nothing of the pass that runs, nor that it ran."""
        self.without_ahead: TableBeside | None = None
        """Goes through the same requests without reads ahead; None: whoever looks at residency looks here."""
        self.ledger, self.num_experts, self._rule = ledger, num_experts, rule
        # asked once: the check goes through all methods
        self._of_planes = rule if isinstance(rule, TruncatingRule) and ledger.sizes.plane_bytes else None
        self.keeps_cores = keeps_cores
        if keeps_cores:
            self.keep_cores()
        elif self._of_planes is not None:
            ledger.hold_back()  # such a rule frees what is worth least, not the size of unit that is wanted
        self.forecast = rule.forecast if isinstance(rule, NativeRule) else None
        """The rule, where native code can ask it by itself."""
        self._in_order = rule.use_in_order if isinstance(rule, OrderedRule) else None
        self._tier_by_key = tiers.reshape(-1)
        tiers, slots = tiers.view(), slots.view()
        tiers.flags.writeable = slots.flags.writeable = False
        self._tiers: list[U8] = list(tiers)
        self._slots: list[I32] = list(slots)

    def resident_tiers(self, layer_idx: int) -> U8:
        """Return uint8 [E], read-only: the tier each expert of the layer is resident at, 0 if it is not."""
        return self._tiers[layer_idx]

    def slots_of(self, layer_idx: int) -> I32:
        """Return int32 [E], read-only: the slot of each expert, resident or being read, -1 if it has none."""
        return self._slots[layer_idx]

    def all_resident_at(self, tier: int) -> bool:
        """Whether every expert that is resident is so at this tier."""
        return bool(np.isin(self._tier_by_key, (0, tier)).all())

    def experts_in(self, slots: Sequence[int]) -> list[int]:
        """Return the expert_idx in each of some occupied slots."""
        return [self.expert_in(slot) for slot in slots]

    @property
    def native_rule(self) -> UseForecast | tuple[ScoresOf, TopOf]:
        """What native code asks who goes: the rule itself where it is native, else what `make_claim` calls."""
        return self.forecast or (self._scores, self._plane_score)

    @property
    def num_layers(self) -> int:
        """L, sparse and dense."""
        return len(self._slots)

    def lookup(self, layer_idx: int, tiers: U8, order: Keys | None = None, topk_ids: I32 | None = None) -> Lookup:
        """Find the experts a layer needs now, pin those that have what is asked, and count them.

        Args:
            layer_idx: the layer; a mask on its experts is lifted.
            tiers: uint8 [E], the tier each is served at; 0: not needed.
            order: the experts needed in the order they count as used, the most recent last; None: by number.
            topk_ids: int32 [T, K], what each token uses, for rules that want to know.
        """
        self.note_use(layer_idx, tiers, order, topk_ids)
        return Lookup(*self.find(layer_idx, tiers))

    def note_use(self, layer_idx: int, tiers: U8, order: Keys | None, topk_ids: I32 | None = None) -> None:
        """Tell the rule, and the table without reads ahead, what a layer uses; `lookup` does. Arguments as for it."""
        if self.uses is not None:
            self.uses[layer_idx] += tiers != 0 if topk_ids is None else self._per_token(topk_ids)
        if self.skips_uses:
            return
        if topk_ids is not None and len(topk_ids) > 1 and self._in_order is not None:
            self._in_order(layer_idx, tiers, topk_ids)
        else:
            experts = tiers.nonzero()[0] if order is None else order
            self._rule.use(layer_idx * self.num_experts + experts, tiers.take(experts))
        if self.without_ahead is not None:
            self.without_ahead.serve(layer_idx, tiers)

    def _per_token(self, topk_ids: I32) -> I64:
        """Return int64 [E], how many tokens use each expert; ids that stand for none are below 0."""
        return np.bincount(topk_ids[topk_ids >= 0], minlength=self.num_experts)

    def serve_instantly(self, layer_idx: int, tiers: U8, finish: Callable[[list[int]], None] | None = None) -> None:
        """Do what `LayerStream` does over reads that are over when somebody looks; the rule was told of the uses.

        Args:
            layer_idx: the layer; nothing of it is being read.
            tiers: uint8 [E], the tier each is served at; 0: not needed.
            finish: takes slots as read, makes each ready and drains the ledger's discards; None: both is done.

        Raises:
            BudgetError: nothing may be evicted for what is left.
        """
        if lacking := self.serve_at_once(layer_idx, tiers, self.native_rule, finish):
            raise BudgetError(f"layer {layer_idx}: nothing may be evicted for {lacking} experts. Use more memory.")

    def claim(self, layer_idx: int, experts: Sequence[int], tiers: U8, *, prefetch: bool = False) -> list[int]:
        """Give room to the first of `experts`, as many as fit after evicting; their slots are then being read.

        Args:
            layer_idx: their layer.
            experts: experts absent, or resident below their tier, and not being read.
            tiers: uint8 [E], the tier wanted.
            prefetch: nobody asked yet: the slots are not pinned.

        Returns:
            The slots of experts[0], experts[1], ...; shorter than `experts` if room ran out.
        """
        return self.make_claim(layer_idx, experts, tiers, prefetch, self._scores, self._plane_score)

    def resize(self, budget_bytes: int) -> ResizeMoves:
        """Change the budget while nothing is pinned or being read; the worst-scored experts go if it shrinks."""
        if self.num_pinned or self.num_reading:
            raise RuntimeError("residency: resized while slots are pinned or being read")
        return ResizeMoves(*self.change_budget(budget_bytes, self._scores, self._plane_score))

    def count_into(self, counters: ExpertCounters) -> None:
        """Bring what the table counts up to date: lookups, evictions and the fate of prefetches."""
        hits, late, misses, *others = self.tally()
        counters.set_lookups(hits, late, misses)
        (
            counters.upgrades, counters.evicted, counters.truncated,
            counters.prefetch_issued, counters.prefetch_used, counters.prefetch_late, counters.prefetch_wasted,
        ) = others  # fmt: skip

    def _scores(self, layer_idx: int) -> tuple[Scores, Scores | None]:
        """Scores of the slots' experts, and of their deepest planes if the rule has any."""
        keys, of_planes = self._keys[: self.num_slots], self._of_planes
        cores = self._rule.scores(keys, layer_idx)
        if of_planes is None:
            return cores, None
        return cores, of_planes.plane_scores(keys, self._tier_by_key.take(keys, mode="wrap"), layer_idx)

    def _plane_score(self, layer_idx: int, slot: int, tier: int) -> float:
        """Score of the deepest plane of a slot whose expert is cut to `tier`."""
        assert self._of_planes is not None
        key, left = self._keys[slot : slot + 1], np.array([tier], np.uint8)
        return float(self._of_planes.plane_scores(key, left, layer_idx)[0])
