"""SlotTable: which expert is in which slot, at which tier, pinned or being read. Bookkeeping only, no I/O."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.eviction import EvictionRule

I32 = NDArray[np.int32]
Keys = NDArray[np.intp]
FREE = -1
_SORT_ABOVE = 16


class Lookup(NamedTuple):
    """Where the experts a layer asked for are.

    Attributes:
        ready_experts: resident experts intp [n], ascending.
        ready_slots: their slots int32 [n], pinned.
        late_slots: slots whose read is under way; pinned.
        missing: experts to read, ascending.
    """

    ready_experts: Keys
    ready_slots: I32
    late_slots: I32
    missing: Keys


class SlotTable:
    """S slots over L x E experts. A slot is free, being read, or holds a resident expert; it may be pinned.

    Args:
        num_slots: S.
        num_layers: L.
        num_experts: E.
        rule: chooses who goes; told of every use.
        counters: where lookups, evictions and the fate of prefetches are counted.
    """

    def __init__(
        self, *, num_slots: int, num_layers: int, num_experts: int, rule: EvictionRule, counters: ExpertCounters
    ) -> None:
        self.num_slots, self.num_experts = num_slots, num_experts
        self._rule, self.counters = rule, counters
        self._slots = np.full((num_layers, num_experts), FREE, np.int32)
        self._tiers = np.zeros((num_layers, num_experts), np.uint8)
        self._visible_tiers = self._tiers.view()
        self._visible_tiers.flags.writeable = False
        self._keys = np.full(num_slots, FREE, np.intp)
        self._pinned = np.zeros(num_slots, np.bool_)
        self._reading = np.zeros(num_slots, np.bool_)
        self._prefetched = np.zeros(num_slots, np.bool_)
        self._free = list(range(num_slots - 1, -1, -1))

    @property
    def num_resident(self) -> int:
        """Slots holding a resident expert."""
        return self.num_slots - len(self._free) - int(self._reading.sum())

    @property
    def num_pinned(self) -> int:
        """Slots pinned."""
        return int(self._pinned.sum())

    @property
    def num_reading(self) -> int:
        """Slots being read into."""
        return int(self._reading.sum())

    def resident_tiers(self, layer_idx: int) -> NDArray[np.uint8]:
        """Return uint8 [E], read-only: the tier each expert of the layer is resident at, 0 if it is not."""
        tiers: NDArray[np.uint8] = self._visible_tiers[layer_idx]
        return tiers

    def slots_of(self, layer_idx: int) -> I32:
        """Return int32 [E]: the slot of each expert of a layer, resident or being read, -1 if it has none."""
        slots: I32 = self._slots[layer_idx]
        return slots

    def experts_in(self, slots: I32) -> Keys:
        """Return intp [n], the expert_idx in each of int32 [n] occupied slots."""
        experts: Keys = self._keys[slots] % self.num_experts
        return experts

    def lookup(self, layer_idx: int, experts: Keys, tier: int) -> Lookup:
        """Find distinct experts intp [n] a layer needs now, pin those that have a slot, and count them."""
        counters = self.counters
        self._rule.use(layer_idx * self.num_experts + experts, tier)
        slots = self._slots[layer_idx].take(experts)
        is_ready = self._tiers[layer_idx].take(experts) > 0
        if is_ready.all():
            found = Lookup(experts, slots, slots[:0], experts[:0])
        else:
            is_missing = slots == FREE
            found = Lookup(experts[is_ready], slots[is_ready], slots[~is_ready & ~is_missing], experts[is_missing])
        self._pinned[found.ready_slots] = True
        self._pinned[found.late_slots] = True
        counters.count(tier, hits=len(found.ready_slots), late=len(found.late_slots), misses=len(found.missing))
        counters.prefetch_used += self._settle_prefetched(found.ready_slots)
        counters.prefetch_late += self._settle_prefetched(found.late_slots)
        return found

    def claim(self, layer_idx: int, experts: list[int], *, prefetch: bool = False) -> list[int]:
        """Give slots to the first of `experts`, as many as are free or can be evicted; they are then being read.

        Args:
            layer_idx: their layer.
            experts: experts without a slot.
            prefetch: nobody asked yet: the slots are not pinned.

        Returns:
            The slots of experts[0], experts[1], ...; shorter than `experts` if room ran out.
        """
        wanted = len(experts)
        chosen = [self._free.pop() for _ in range(min(wanted, len(self._free)))]
        if len(chosen) < wanted:
            victims = self._victims(wanted - len(chosen), layer_idx)
            for slot in victims:
                self._evict(slot)
            chosen += victims
        for slot, expert in zip(chosen, experts, strict=False):
            self._keys[slot] = layer_idx * self.num_experts + expert
            self._slots[layer_idx, expert] = slot
            self._reading[slot] = True
            self._pinned[slot] = not prefetch
            self._prefetched[slot] = prefetch
        self.counters.prefetch_issued += len(chosen) if prefetch else 0
        return chosen

    def set_ready(self, slot: int, tier: int) -> None:
        """A read finished: the slot's expert is resident at `tier`."""
        self._reading[slot] = False
        self._tiers.flat[self._keys[slot]] = tier

    def drop(self, slot: int) -> None:
        """Free a slot whatever its state; what a failed or withdrawn read leaves."""
        key = int(self._keys[slot])
        self._slots.flat[key] = FREE
        self._tiers.flat[key] = 0
        self.counters.prefetch_wasted += int(self._prefetched[slot])
        for flags in (self._prefetched, self._pinned, self._reading):
            flags[slot] = False
        self._keys[slot] = FREE
        self._free.append(slot)

    def unpin(self, slots: I32) -> None:
        """Let int32 [n] slots be evicted again."""
        self._pinned[slots] = False

    def unpin_all(self) -> None:
        """Let every slot be evicted again."""
        self._pinned[:] = False

    def resize(self, num_slots: int) -> list[tuple[int, int]]:
        """Change S while nothing is pinned or being read; the worst-scored experts go if there are too many.

        Returns:
            (source, target) slots whose bytes the caller must copy before the slots past `num_slots` disappear.
        """
        if self._pinned.any() or self._reading.any():
            raise RuntimeError("residency: resized while slots are pinned or being read")
        moves: list[tuple[int, int]] = []
        for slot in self._victims(self.num_resident - num_slots, 0):
            self._evict(slot)
            self._free.append(slot)
        targets = sorted((slot for slot in self._free if slot < num_slots), reverse=True)
        for source in np.flatnonzero(self._keys[num_slots:] != FREE) + num_slots:
            target = targets.pop()
            self._keys[target], self._prefetched[target] = self._keys[source], self._prefetched[source]
            self._slots.flat[self._keys[target]] = target
            moves.append((int(source), target))
        kept, added = self._keys[:num_slots], max(num_slots - self.num_slots, 0)
        self._keys = np.concatenate([kept, np.full(added, FREE, np.intp)])
        self._prefetched = np.concatenate([self._prefetched[:num_slots], np.zeros(added, np.bool_)])
        self._pinned, self._reading = np.zeros(num_slots, np.bool_), np.zeros(num_slots, np.bool_)
        self._free = np.flatnonzero(self._keys == FREE)[::-1].tolist()
        self.num_slots = num_slots
        return moves

    def _victims(self, count: int, layer_idx: int) -> list[int]:
        """Up to `count` evictable slots, the worst first; ties go to the lower slot."""
        if count <= 0:
            return []
        scores = self._rule.scores(self._keys, layer_idx)
        np.putmask(scores, self._pinned | self._reading | (self._keys == FREE), np.inf)
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

    def _evict(self, slot: int) -> None:
        key = int(self._keys[slot])
        self._slots.flat[key] = FREE
        self._tiers.flat[key] = 0
        self._keys[slot] = FREE
        self.counters.evicted += 1
        self.counters.prefetch_wasted += int(self._prefetched[slot])
        self._prefetched[slot] = False

    def _settle_prefetched(self, slots: I32) -> int:
        """Number of slots whose prefetch is asked for the first time now."""
        if not len(slots) or not self.counters.prefetch_issued:
            return 0
        count = int(np.count_nonzero(self._prefetched[slots]))
        self._prefetched[slots] = False
        return count
