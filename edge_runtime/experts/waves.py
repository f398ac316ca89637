"""Serves a layer's experts over reads that take no time: who is pinned, claimed, evicted and ready, in which order."""

from __future__ import annotations

from collections.abc import Callable

from edge_runtime.base.arrays import U8
from edge_runtime.base.errors import BudgetError
from edge_runtime.experts.residency import Lookup, SlotTable


def serve_at_once(
    table: SlotTable, layer_idx: int, tiers: U8, found: Lookup, finish: Callable[[list[int]], None]
) -> None:
    """Do to a table what `LayerStream` does over reads that are over when somebody looks (see its `__next__`).

    Args:
        table: holds the experts.
        layer_idx: the layer.
        tiers: uint8 [E], the tier each expert needed is served at; 0: not needed.
        found: what `SlotTable.lookup` or `find` said of them; nothing is being read.
        finish: takes slots as read, with everything they lack.

    Raises:
        BudgetError: nothing may be evicted for what is left.
    """
    held, missing = found.ready_slots, found.missing
    read = _claim(table, layer_idx, missing, tiers)
    while True:
        table.unpin(held)
        read += _claim(table, layer_idx, missing, tiers)
        if not read:
            break
        finish(read)
        held, read = read, _claim(table, layer_idx, missing, tiers)
    if missing:
        raise BudgetError(f"layer {layer_idx}: nothing may be evicted for {len(missing)} experts. Use more memory.")


def _claim(table: SlotTable, layer_idx: int, missing: list[int], tiers: U8) -> list[int]:
    """Start reading the first of `missing`, as many as there is room for, and take them off; return their slots."""
    if not missing:
        return []
    slots = table.claim(layer_idx, missing, tiers)
    del missing[: len(slots)]
    return slots
