"""Serves experts over reads that are over at once, without tickets, addresses and batches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.errors import BudgetError
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.residents import Residents
from edge_runtime.lab.simulator.drive import SimulatedStore

I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]
Keys = NDArray[np.intp]


class InstantServer:
    """Does to a cache's residents what its `stream` does over reads that are over when somebody looks.

    Who is pinned, claimed, evicted and ready, and in which order, is that of `LayerStream` (see its `__next__`). Where
    reads of predicted experts may be under way, `stream` itself is used.

    Args:
        cache: over `store`.
        store: counts the reads.
    """

    def __init__(self, cache: ExpertCache, store: SimulatedStore) -> None:
        self._cache, self._store = cache, store

    def serve(self, layer_idx: int, tiers: U8, order: Keys | None = None, topk_ids: I32 | None = None) -> None:
        """Serve the experts of one layer to the end. Arguments as for `ExpertCache.stream`."""
        if self._cache.num_reading:
            for _ in self._cache.stream(layer_idx, tiers, order, topk_ids):
                pass
            return
        residents = self._cache.residents
        table = residents.table
        if table.hit_all(layer_idx, tiers):
            if not residents.fits_all:
                table.note_use(layer_idx, tiers, order, topk_ids)
            return
        _, held, _, missing = table.lookup(layer_idx, tiers, order, topk_ids)
        read = _claim(residents, layer_idx, missing, tiers)
        while True:
            table.unpin(held)
            read += _claim(residents, layer_idx, missing, tiers)
            if not read:
                break
            self._store.read_at_once(len(read), residents.finish_reads(read))
            residents.ledger.drain_discards()  # no memory was written, so none goes back
            held, read = read, _claim(residents, layer_idx, missing, tiers)
        if missing:
            raise BudgetError(f"layer {layer_idx}: nothing may be evicted for {len(missing)} experts. Use more memory.")


def _claim(residents: Residents, layer_idx: int, missing: list[int], tiers: U8) -> list[int]:
    """Start reading the first of `missing`, as many as there is room for, and take them off; return their slots."""
    if not missing:
        return []
    slots = residents.table.claim(layer_idx, missing, tiers)
    del missing[: len(slots)]
    return slots
