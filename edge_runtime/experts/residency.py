"""SlotTable: which expert is in which slot, at which tier, pinned or being read. Bookkeeping only, no I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.eviction import EvictionRule, TruncatingRule
from edge_runtime.experts.units import Discard, UnitLedger

I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]
Keys = NDArray[np.intp]
FREE = -1
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


class SlotTable:
    """Slots over L x E experts. A slot is free, being read, or holds a resident expert; it may be pinned.

    A slot is a core of the ledger, with the planes its expert has beyond it. A resident whose deeper planes are being
    read stays resident at its tier meanwhile. If the ledger has planes, room is made by truncating first: the colder
    half of what may go, coldest first, loses its planes; then whole experts go, coldest first.

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
        self.ledger, self.num_experts = ledger, num_experts
        self._rule, self.counters = rule, counters
        self._slots = np.full((num_layers, num_experts), FREE, np.int32)
        self._slot_by_key = self._slots.reshape(-1)
        self._tiers = np.zeros((num_layers, num_experts), np.uint8)
        self._visible_tiers = self._tiers.view()
        self._visible_tiers.flags.writeable = False
        self._masked = np.zeros((num_layers, num_experts), np.bool_)
        self._any_masked = False
        self._allocate()

    def _allocate(self) -> None:
        num_slots = self.ledger.num_cores
        self._keys = np.full(num_slots, FREE, np.intp)
        self._planes: list[list[int]] = [[] for _ in range(num_slots)]
        self._pinned = np.zeros(num_slots, np.bool_)
        self._reading = np.zeros(num_slots, np.bool_)
        self._prefetched = np.zeros(num_slots, np.bool_)

    @property
    def num_slots(self) -> int:
        """Slots there may be: cores that fit the budget."""
        return len(self._keys)

    @property
    def num_resident(self) -> int:
        """Slots holding a resident expert."""
        return int(np.count_nonzero(self._tiers))

    @property
    def num_pinned(self) -> int:
        """Slots pinned."""
        return int(self._pinned.sum())

    @property
    def num_reading(self) -> int:
        """Slots being read into."""
        return int(self._reading.sum())

    def resident_tiers(self, layer_idx: int) -> U8:
        """Return uint8 [E], read-only: the tier each expert of the layer is resident at, 0 if it is not."""
        tiers: U8 = self._visible_tiers[layer_idx]
        return tiers

    def slots_of(self, layer_idx: int) -> I32:
        """Return int32 [E]: the slot of each expert of a layer, resident or being read, -1 if it has none."""
        slots: I32 = self._slots[layer_idx]
        return slots

    def is_reading(self, slot: int) -> bool:
        """Whether a slot is being read into; False for -1."""
        return slot != FREE and bool(self._reading[slot])

    def planes_of(self, slot: int) -> Sequence[int]:
        """Plane units of a slot, shallowest first, those being read included."""
        return self._planes[slot]

    def experts_in(self, slots: I32) -> Keys:
        """Return intp [n], the expert_idx in each of int32 [n] occupied slots."""
        experts: Keys = self._keys[slots] % self.num_experts
        return experts

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
        is_ready = self._tiers[layer_idx].take(experts) >= tiers
        if is_ready.all():
            found = Lookup(experts, slots, slots[:0], experts[:0])
            counters.count(tiers, tiers[:0], tiers[:0])
        else:
            is_late = ~is_ready & (slots != FREE) & self._reading.take(slots, mode="wrap")
            is_missing = ~is_ready & ~is_late
            found = Lookup(experts[is_ready], slots[is_ready], slots[is_late], experts[is_missing])
            counters.count(tiers[is_ready], tiers[is_late], tiers[is_missing])
            counters.upgrades += int(np.count_nonzero(slots[is_missing] != FREE))
        self._pinned[found.ready_slots] = True
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

    def mask(self, layer_idx: int, experts: Iterable[int]) -> None:
        """Evict these experts of a layer after all others, until the layer is looked up."""
        self._masked[layer_idx, list(experts)] = True
        self._any_masked = True

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

    def resident_planes(self, slot: int) -> int | None:
        """Planes a slot's expert is resident with; None if it is not resident at all."""
        tier = int(self._tiers.flat[self._keys[slot]])
        return self.ledger.sizes.planes(tier) if tier else None

    def set_ready(self, slot: int) -> None:
        """Its reads finished: the slot's expert is resident with all planes it was given."""
        sizes, planes = self.ledger.sizes, len(self._planes[slot])
        self._tiers.flat[self._keys[slot]] = sizes.core_tier + 2 * planes
        self._reading[slot] = False

    def drop(self, slot: int) -> None:
        """Undo a failed or withdrawn read: free an absent expert's slot, or the new planes of a resident."""
        key = int(self._keys[slot])
        self.counters.prefetch_wasted += int(self._prefetched[slot])
        self._prefetched[slot], self._reading[slot] = False, False
        kept = self.resident_planes(slot)
        if kept is not None:
            self._cut(slot, kept)
            return
        self._pinned[slot] = False
        self._slots.flat[key] = FREE
        self._keys[slot] = FREE
        self._cut(slot, 0)
        self.ledger.free_core(slot)

    def unpin(self, slots: I32) -> None:
        """Let int32 [n] slots be evicted again."""
        self._pinned[slots] = False

    def unpin_all(self) -> None:
        """Let every slot be evicted again, and lift all masks."""
        self._pinned[:] = False
        if self._any_masked:
            self._masked[:], self._any_masked = False, False

    def reconcile(self, reading: Collection[int]) -> None:
        """Make everything agree after a call was interrupted at any point; if nothing was, only pins and masks go.

        What counts: an expert is resident if it and its slot name each other and it has a tier and all planes of that
        tier. Slots and planes of anything else are free. Doing half of this and then all of it gives the same.

        Args:
            reading: slots whose reads are under way; they keep what they have.
        """
        busy = np.zeros(self.num_slots, np.bool_)
        busy[list(reading)] = True
        keys, core_tier = self._keys, self.ledger.sizes.core_tier
        held = np.fromiter(map(len, self._planes), np.intp, len(self._planes))
        tiers = np.where(keys == FREE, 0, self._tiers.ravel().take(keys, mode="wrap")).astype(np.intp)
        tiers[self._slot_by_key.take(keys, mode="wrap") != np.arange(self.num_slots)] = 0
        wanted = (tiers - core_tier) // 2
        tiers[held < wanted] = 0
        surplus = np.flatnonzero((tiers > 0) & ~busy & (held > wanted))
        gone = (tiers == 0) & ~busy
        undone = self._prefetched & gone
        undone[surplus] |= self._prefetched[surplus]
        for slot in np.flatnonzero(gone & (held > 0)).tolist():
            self._planes[slot] = []
        for slot in surplus.tolist():
            self._planes[slot] = self._planes[slot][: int(wanted[slot])]
        by_key = np.zeros(self._tiers.size, np.uint8)
        by_key[keys[tiers > 0]] = tiers[tiers > 0]
        self._tiers[...] = by_key.reshape(self._tiers.shape)
        slot_by_key = np.full(self._slot_by_key.size, FREE, np.int32)
        slot_by_key[keys[~gone]] = np.flatnonzero(~gone)
        self._slot_by_key[...] = slot_by_key
        self._keys[gone] = FREE
        self._reading[...] = busy
        self._prefetched[undone] = False
        self.counters.prefetch_wasted += int(np.count_nonzero(undone))
        self._pinned[...] = False
        self._masked[...] = self._any_masked = False
        self.ledger.reconcile(np.flatnonzero(~gone).tolist(), [unit for units in self._planes for unit in units])

    def start_over(self, budget_bytes: int) -> None:
        """Forget every expert: an interrupted `resize` leaves nothing to go by."""
        self.ledger.start_over(budget_bytes)
        self._tiers[...] = 0
        self._slots[...] = FREE
        self._masked[...] = self._any_masked = False
        self._allocate()

    def drain_discards(self) -> list[Discard]:
        """Units whose memory must go back to the system before anything is written; see `UnitLedger`."""
        return self.ledger.drain_discards()

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
            self._slots.flat[self._keys[target]] = target
            self._planes[target], self._planes[source] = self._planes[source], []
        moved = dict(planes)
        if moved:
            self._planes = [[moved.get(unit, unit) for unit in units] for units in self._planes]
        self._resize_arrays(ledger.num_cores)
        return ResizeMoves(cores, planes)

    def _resize_arrays(self, num_slots: int) -> None:
        added = max(num_slots - self.num_slots, 0)
        self._keys = np.concatenate([self._keys[:num_slots], np.full(added, FREE, np.intp)])
        self._prefetched = np.concatenate([self._prefetched[:num_slots], np.zeros(added, np.bool_)])
        self._pinned, self._reading = np.zeros(num_slots, np.bool_), np.zeros(num_slots, np.bool_)
        self._planes = [*self._planes[:num_slots], *([] for _ in range(added))]

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

    def _occupy(self, layer_idx: int, expert: int, tier: int, *, prefetch: bool) -> int:
        slot = int(self._slots[layer_idx, expert])
        if slot == FREE:
            slot = self.ledger.take_core()
            self._keys[slot] = layer_idx * self.num_experts + expert
            self._slots[layer_idx, expert] = slot
        if tier > self.ledger.sizes.core_tier:
            held = self._planes[slot]
            for _ in range(self.ledger.sizes.planes(tier) - len(held)):
                held.append(self.ledger.take_plane())
        self._reading[slot] = True
        self._pinned[slot] |= not prefetch
        self._prefetched[slot] = prefetch
        return slot

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
        scores = self._rule.scores(self._keys, layer_idx)
        if self._any_masked:
            scores += np.where(self._masked.ravel().take(self._keys, mode="wrap"), _MASKED, 0).astype(scores.dtype)
        np.putmask(scores, self._pinned | self._reading | (self._keys == FREE), np.inf)
        if keep:
            scores[list(keep)] = np.inf
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

    def _truncate(self, slot: int) -> None:
        """Drop the last plane of a resident."""
        self._tiers.flat[self._keys[slot]] -= 2
        self._cut(slot, len(self._planes[slot]) - 1)
        self.counters.truncated += 1

    def _cut(self, slot: int, planes: int) -> None:
        held = self._planes[slot]
        if len(held) > planes:
            self.ledger.free_planes(held[planes:])
            del held[planes:]

    def _evict(self, slot: int) -> None:
        key = int(self._keys[slot])
        self._slots.flat[key] = FREE
        self._tiers.flat[key] = 0
        self._keys[slot] = FREE
        self._cut(slot, 0)
        self.ledger.free_core(slot)
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
