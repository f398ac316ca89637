"""Reads the lowest tier of every expert into memory, before anything runs."""

from __future__ import annotations

from time import monotonic

import numpy as np

from edge_runtime.base.errors import BudgetError, ExpertReadError
from edge_runtime.experts.reader import SlotReader
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.store.base import Priority


def read_base(reader: SlotReader, residents: Residents, timeout_s: float) -> None:
    """Read every expert that is not resident at the lowest tier, a layer at a time; nothing else is under way.

    Args:
        reader: reads.
        residents: say which layers, and which experts are there.
        timeout_s: longest wait for the next read to finish.

    Raises:
        BudgetError: they do not fit.
        ExpertReadError: a read failed, or none finished in time.
    """
    tiers = np.full(residents.num_experts, residents.min_tier, np.uint8)
    for layer_idx in residents.base_layers:
        absent = np.flatnonzero(residents.table.resident_tiers(layer_idx) == 0).tolist()
        while absent:
            slots = reader.start(layer_idx, absent, tiers, Priority.NOW)
            if not slots:
                raise BudgetError(f"layer {layer_idx}: no room for {len(absent)} experts at their lowest tier.")
            del absent[: len(slots)]
            _finish(reader, slots, timeout_s)


def _finish(reader: SlotReader, slots: list[int], timeout_s: float) -> None:
    """Wait for reads into some slots, and unpin them."""
    awaited, deadline = set(slots), monotonic() + timeout_s
    while awaited:
        for slot, _, error in reader.collect(max(deadline - monotonic(), 0.0)):
            awaited.discard(slot)
            deadline = monotonic() + timeout_s
            if error is not None:
                reader.abort(timeout_s)
                raise error
        if awaited and monotonic() >= deadline:
            reader.abort(timeout_s)
            raise ExpertReadError(
                f"drive: none of {len(awaited)} reads finished within {timeout_s:g} s while every expert was read at "
                "its lowest tier. Check it (dmesg)."
            )
    reader.release(slots)
