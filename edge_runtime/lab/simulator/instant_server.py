"""Serves experts over reads that are over at once, without tickets, addresses and batches."""

from __future__ import annotations

from edge_runtime.base.arrays import I32, U8, Keys
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.lab.simulator.drive import SimulatedStore


class InstantServer:
    """Does to a cache's residents what its `stream` does over reads that are over when somebody looks.

    Where reads of predicted experts may be under way, `stream` itself is used.

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
        if residents.fits_all and table.hit_all(layer_idx, tiers):
            return
        table.note_use(layer_idx, tiers, order, topk_ids)
        table.serve_instantly(layer_idx, tiers, self._finish)

    def _finish(self, slots: list[int]) -> None:
        residents = self._cache.residents
        self._store.read_at_once(len(slots), residents.finish_reads(slots))
        residents.ledger.drain_discards()  # no memory was written, so none goes back
