"""SlotTable: looks experts up, claims slots for reads, and decides who goes when room is needed. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.eviction import EvictionRule, TruncatingRule
from edge_runtime.experts.slots import FREE, I32, U8, Keys, Slots
from edge_runtime.experts.units import UnitLedger

_SORT_ABOVE = 16
_MASKED = 1e30


class Lookup(NamedTuple):
    """Where the experts a layer asked for are.

    Attributes:
        ready_experts: experts resident at the tier asked for or deeper intp [n], ascending.
        ready_slots: their slots int32 [n], pinned.
        late_slots: slots whose read is under way; pinned.
        missing: experts to read, or to deepen, ascending.
    """

    ready_experts: Keys
    ready_slots: I32
    late_slots: I32
    missing: Keys


class ResizeMoves(NamedTuple):
    """(source, target) pairs whose bytes the caller copies before units past the new counts disappear."""

    cores: list[tuple[int, int]]
    planes: list[tuple[int, int]]


class SlotTable(Slots):
    """Slots that are looked up, claimed, and made room for.

    If the ledger has planes, room is made by truncating first: the colder half of what may go, coldest first, loses its
    planes; then whole experts go, coldest first. A rule that scores planes (`TruncatingRule`) orders both itself.

    Args:
        ledger: units of memory; owned from now on.
        num_layers: L.
        num_experts: E.
        rule: chooses who goes; told of every use.
        counters: where lookups, evictions and the fate of prefetches are counted.
    """

    def __init__(
        self, ledger: UnitLedger, *, num_layers: int, num_experts: int, rule: EvictionRule, counters: ExpertCounters
    ) -> None:
        super().__init__(ledger, num_layers=num_layers, num_experts=num_experts, counters=counters)
        self._rule = rule

    def lookup(self, layer_idx: int, experts: Keys, tiers: U8, order: Keys | None = None) -> Lookup:
        """Find distinct experts intp [n] a layer needs now, pin those that have what is asked, and count them.

        Args:
            layer_idx: the layer; a mask on its experts is lifted.
            experts: intp [n], distinct, ascending.
            tiers: uint8 [n], the tier each is served at.
            order: the same experts in the order they count as used, the most recent last; None: as they come.
        """
        counters = self.counters
        self._note_use(layer_idx, experts, tiers, order)
        slots = self._slots[layer_idx].take(experts)
        held, wanted = self._tiers[layer_idx].take(experts).tobytes(), tiers.tobytes()
        # a layer needs few experts: going through them costs less than a dozen calls of numpy
        ready, late, missing = [], [], []
        for place, (tier, asked, slot) in enumerate(zip(held, wanted, slots.tolist(), strict=True)):
            if tier >= asked:
                ready.append(place)
            elif slot != FREE and self._reading[slot]:
                late.append(place)
            else:
                missing.append(place)
                counters.upgrades += slot != FREE
        if len(ready) == len(wanted):
            found = Lookup(experts, slots, slots[:0], experts[:0])
            counters.count(wanted, b"", b"")
        else:
            found = Lookup(experts.take(ready), slots.take(ready), slots.take(late), experts.take(missing))
            counters.count(*(bytes([wanted[place] for place in places]) for places in (ready, late, missing)))
        self._pinned[found.ready_slots] = True
        if late:
            self._pinned[found.late_slots] = True
        counters.prefetch_used += self._settle_prefetched(found.ready_slots)
        counters.prefetch_late += self._settle_prefetched(found.late_slots)
        return found

    def use_resident(self, layer_idx: int, experts: Keys, tier: int, order: Keys | None) -> None:
        """Count the lookup of experts that are all resident, and all served at `tier`. Others as for `lookup`."""
        self._note_use(layer_idx, experts, np.full(len(experts), tier, np.uint8), order)
        self.counters.count_hits(tier, len(experts))
        self.counters.prefetch_used += self._settle_prefetched(self._slots[layer_idx].take(experts))

    def _note_use(self, layer_idx: int, experts: Keys, tiers: U8, order: Keys | None) -> None:
        if order is None:
            self._rule.use(layer_idx * self.num_experts + experts, tiers)
        else:
            self._rule.use(layer_idx * self.num_experts + order, tiers[np.searchsorted(experts, order)])
        if self._any_masked:
            self._masked[layer_idx] = False

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
        ledger, row = self.ledger, self._slots[layer_idx]
        if not ledger.sizes.max_planes:
            chosen = self._claim_cores(layer_idx, experts, prefetch=prefetch)
            self.counters.prefetch_issued += len(chosen) if prefetch else 0
            return chosen
        wanted = sum(self._missing_bytes(row, expert, tiers) for expert in experts)
        if wanted > ledger.free_bytes:
            held = [int(row[expert]) for expert in experts if row[expert] != FREE]
            self._make_room(wanted, layer_idx, held)
            if held and self._missing_bytes(row, experts[0], tiers) > ledger.free_bytes:
                # residents waiting for planes hold all memory: let the later ones go so that the first can proceed
                self._make_room(wanted, layer_idx, held[:1] if row[experts[0]] == held[0] else [])
        chosen = []
        for expert in experts:
            if self._missing_bytes(row, expert, tiers) > ledger.free_bytes:
                break
            chosen.append(self._occupy(layer_idx, expert, int(tiers[expert]), prefetch=prefetch))
        self.counters.prefetch_issued += len(chosen) if prefetch else 0
        return chosen

    def resize(self, budget_bytes: int) -> ResizeMoves:
        """Change the budget while nothing is pinned or being read; the worst-scored experts go if it shrinks."""
        if self._pinned.any() or self._reading.any():
            raise RuntimeError("residency: resized while slots are pinned or being read")
        ledger = self.ledger
        self._make_room(ledger.budget_bytes - budget_bytes, 0, [])
        used = np.flatnonzero(self._keys != FREE).tolist()
        cores, planes = ledger.resize(budget_bytes, used, [unit for units in self._planes for unit in units])
        for source, target in cores:
            self._keys[target], self._prefetched[target] = self._keys[source], self._prefetched[source]
            self._slot_by_key[self._keys[target]] = target
            self._planes[target], self._planes[source] = self._planes[source], []
        moved = dict(planes)
        if moved:
            self._planes = [[moved.get(unit, unit) for unit in units] for units in self._planes]
        self._resize_arrays(ledger.num_cores)
        return ResizeMoves(cores, planes)

    def _claim_cores(self, layer_idx: int, experts: Sequence[int], *, prefetch: bool) -> list[int]:
        """The plain case of `claim`: one tier, so all experts are absent and cost the same."""
        size = self.ledger.sizes.core_bytes
        self._make_room(size * len(experts), layer_idx, [])
        room = self.ledger.free_bytes // size
        return [self._occupy(layer_idx, expert, 0, prefetch=prefetch) for expert in experts[:room]]

    def _missing_bytes(self, row: I32, expert: int, tiers: U8) -> int:
        sizes, slot = self.ledger.sizes, int(row[expert])
        planes = sizes.planes(int(tiers[expert]))
        if slot == FREE:
            return sizes.core_bytes + planes * sizes.plane_bytes
        return (planes - len(self._planes[slot])) * sizes.plane_bytes

    def _make_room(self, free_bytes: int, layer_idx: int, keep: Sequence[int]) -> None:
        """Truncate and evict until `free_bytes` are free, or nothing more may go."""
        ledger = self.ledger
        over = free_bytes - ledger.free_bytes
        if over <= 0:
            return
        if not ledger.sizes.max_planes:
            for slot in self._victims(-(-over // ledger.sizes.core_bytes), layer_idx, keep):
                self._evict(slot)
            return
        if isinstance(self._rule, TruncatingRule):
            self._make_room_by_worth(free_bytes, layer_idx, keep, self._rule)
            return
        victims = self._victims(self.num_slots, layer_idx, keep)
        for slot in victims[: -(-len(victims) // 2)]:
            while ledger.free_bytes < free_bytes and self._planes[slot]:
                self._truncate(slot)
        for slot in victims:
            if ledger.free_bytes >= free_bytes:
                return
            self._evict(slot)

    def _make_room_by_worth(self, free_bytes: int, layer_idx: int, keep: Sequence[int], rule: TruncatingRule) -> None:
        """Cores and planes go in one order, the lowest score first; ties go to the lower slot."""
        tiers = self._tiers.ravel().take(self._keys, mode="wrap")
        cores = self._guarded(rule.scores(self._keys, layer_idx).astype(np.float64), keep)
        tops = self._guarded(rule.plane_scores(self._keys, tiers, layer_idx), keep)
        tops = np.where(tiers > self.ledger.sizes.core_tier, tops, cores)
        while self.ledger.free_bytes < free_bytes:
            slot = int(tops.argmin())
            if tops[slot] == np.inf:
                return
            if not self._planes[slot]:
                self._evict(slot)
                tops[slot] = np.inf
                continue
            self._truncate(slot)
            key = self._keys[slot : slot + 1]
            left = self._tiers.ravel().take(key)
            deeper = left[0] > self.ledger.sizes.core_tier
            tops[slot] = rule.plane_scores(key, left, layer_idx)[0] if deeper else cores[slot]

    def _guarded(self, scores: NDArray[np.float64], keep: Sequence[int]) -> NDArray[np.float64]:
        """Scores of what may go; infinite for what may not, and more for what is masked."""
        if self._any_masked:
            scores = scores + np.where(self._masked.ravel().take(self._keys, mode="wrap"), _MASKED, 0)
        np.putmask(scores, self._pinned | self._reading | (self._keys == FREE), np.inf)
        if keep:
            scores[list(keep)] = np.inf
        return scores

    def _victims(self, count: int, layer_idx: int, keep: Sequence[int]) -> list[int]:
        """Up to `count` evictable slots, the worst first; ties go to the lower slot."""
        if count <= 0:
            return []
        scores = self._guarded(self._rule.scores(self._keys, layer_idx).astype(np.float64, copy=False), keep)
        if count > _SORT_ABOVE:
            order = np.argsort(scores, kind="stable")[:count]
            return [int(slot) for slot in order if scores[slot] != np.inf]
        victims: list[int] = []
        for _ in range(count):
            slot = int(scores.argmin())
            if scores[slot] == np.inf:
                break
            scores[slot] = np.inf
            victims.append(slot)
        return victims
