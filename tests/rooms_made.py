"""Sees when experts go although bytes enough are free, because they are free in the other size of unit (ADR 216)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from edge_runtime.base.arrays import U8
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.residency import SlotTable


class RoomsMade:
    """Counts what is claimed in Python from now on, where free memory keeps its size and something goes in its stead.

    Without that rule nothing goes while the free bytes do, whatever units they are in: then `despite_free_bytes` is 0.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.despite_free_bytes = 0
        claim = SlotTable.claim

        def watched(
            table: SlotTable, layer_idx: int, experts: Sequence[int], tiers: U8, *, prefetch: bool = False
        ) -> list[int]:
            is_enough = lacking_bytes(table, layer_idx, experts, tiers) <= table.ledger.free_bytes
            before = gone(table)
            claimed = claim(table, layer_idx, experts, tiers, prefetch=prefetch)
            self.despite_free_bytes += is_enough and gone(table) > before
            return claimed

        patch.setattr(SlotTable, "claim", watched)


def lacking_bytes(table: SlotTable, layer_idx: int, experts: Sequence[int], tiers: U8) -> int:
    """Bytes of the units that experts of a layer lack for their tiers."""
    sizes, slots, found = table.ledger.sizes, table.slots_of(layer_idx), 0
    for expert in experts:
        slot = int(slots[expert])
        held = 0 if slot < 0 else len(table.planes_of(slot))
        found += (slot < 0) * sizes.core_bytes + (sizes.planes(int(tiers[expert])) - held) * sizes.plane_bytes
    return found


def gone(table: SlotTable) -> int:
    """Experts that went so far, whole or in part."""
    counters = ExpertCounters()
    table.count_into(counters)
    return counters.evicted + counters.truncated
