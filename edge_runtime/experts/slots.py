"""Slots: which expert is in which slot, at which tier, pinned or being read, and what may happen to one slot."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.units import Discard, UnitLedger

I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]
Keys = NDArray[np.intp]
FREE = -1


class Slots:
    """State of the slots over L x E experts, and its transitions one slot at a time.

    A slot is free, being read, or holds a resident expert; it may be pinned. It is a core of the ledger, with the
    planes its expert has beyond it. A resident whose deeper planes are being read stays resident at its tier meanwhile.

    Args:
        ledger: units of memory; owned from now on.
        num_layers: L.
        num_experts: E.
        counters: where evictions and the fate of prefetches are counted.
    """

    def __init__(self, ledger: UnitLedger, *, num_layers: int, num_experts: int, counters: ExpertCounters) -> None:
        self.ledger, self.num_experts = ledger, num_experts
        self.counters = counters
        self._slots = np.full((num_layers, num_experts), FREE, np.int32)
        self._slot_by_key = self._slots.reshape(-1)
        self._tiers = np.zeros((num_layers, num_experts), np.uint8)
        self._tier_by_key = self._tiers.reshape(-1)
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

    def mask(self, layer_idx: int, experts: Iterable[int]) -> None:
        """Evict these experts of a layer after all others, until the layer is looked up."""
        self._masked[layer_idx, list(experts)] = True
        self._any_masked = True

    def resident_planes(self, slot: int) -> int | None:
        """Planes a slot's expert is resident with; None if it is not resident at all."""
        tier = int(self._tier_by_key[self._keys[slot]])
        return self.ledger.sizes.planes(tier) if tier else None

    def set_ready(self, slot: int) -> None:
        """Its reads finished: the slot's expert is resident with all planes it was given."""
        sizes, planes = self.ledger.sizes, len(self._planes[slot])
        self._tier_by_key[self._keys[slot]] = sizes.core_tier + 2 * planes
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
        self._slot_by_key[key] = FREE
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

    def _resize_arrays(self, num_slots: int) -> None:
        added = max(num_slots - self.num_slots, 0)
        self._keys = np.concatenate([self._keys[:num_slots], np.full(added, FREE, np.intp)])
        self._prefetched = np.concatenate([self._prefetched[:num_slots], np.zeros(added, np.bool_)])
        self._pinned, self._reading = np.zeros(num_slots, np.bool_), np.zeros(num_slots, np.bool_)
        self._planes = [*self._planes[:num_slots], *([] for _ in range(added))]

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

    def _truncate(self, slot: int) -> None:
        """Drop the last plane of a resident."""
        self._tier_by_key[self._keys[slot]] -= 2
        self._cut(slot, len(self._planes[slot]) - 1)
        self.counters.truncated += 1

    def _cut(self, slot: int, planes: int) -> None:
        held = self._planes[slot]
        if len(held) > planes:
            self.ledger.free_planes(held[planes:])
            del held[planes:]

    def _evict(self, slot: int) -> None:
        key = int(self._keys[slot])
        self._slot_by_key[key] = FREE
        self._tier_by_key[key] = 0
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
