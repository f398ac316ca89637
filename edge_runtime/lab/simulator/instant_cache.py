"""InstantCache: the runtime's table of experts over a drive whose reads are over at once; notes what is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.errors import BudgetError
from edge_runtime.experts.cache import ExpertCache, Resident
from edge_runtime.experts.stream import ReadyBatch
from edge_runtime.lab.simulator.drive import SimulatedStore
from edge_runtime.lab.simulator.requests import RequestLog

U8 = NDArray[np.uint8]
Keys = NDArray[np.intp]


class InstantCache(ExpertCache):
    """The runtime's cache; `serve` does to its table what `stream` does, without tickets, addresses and batches.

    Who is pinned, claimed, evicted and ready, and in which order, is that of `LayerStream` over reads that are over
    when somebody looks (see its `__next__`). Where reads of predicted experts may be under way, use `stream` itself.
    """

    log: RequestLog | None = None

    def serve(self, layer_idx: int, tiers: U8, order: Keys | None = None) -> None:
        """Serve the experts of one layer to the end. Arguments as for `stream`."""
        if self._reader.num_in_flight:
            for _ in self.stream(layer_idx, tiers, order):
                pass
            return
        if self.take_resident(layer_idx, tiers, order) is not None:
            return
        self._note(layer_idx, tiers)
        table = self._table
        _, held, _, missing = table.lookup(layer_idx, tiers, order)
        read = self._claim(layer_idx, missing, tiers)
        while True:
            table.unpin(held)
            read += self._claim(layer_idx, missing, tiers)
            if not read:
                break
            self._finish(read)
            held, read = read, self._claim(layer_idx, missing, tiers)
        if missing:
            raise BudgetError(f"layer {layer_idx}: nothing may be evicted for {len(missing)} experts. Use more memory.")

    def stream(self, layer_idx: int, tiers: U8, order: Keys | None = None) -> Iterator[ReadyBatch]:
        """See `ExpertCache.stream`."""
        self._note(layer_idx, tiers)
        return super().stream(layer_idx, tiers, order)

    def take_resident(self, layer_idx: int, tiers: U8, order: Keys | None = None) -> Resident | None:
        """See `ExpertCache.take_resident`."""
        found = super().take_resident(layer_idx, tiers, order)
        if found is not None:
            self._note(layer_idx, tiers)
        return found

    def _note(self, layer_idx: int, tiers: U8) -> None:
        if self.log is not None:
            self.log.add(layer_idx, tiers)

    def _claim(self, layer_idx: int, missing: list[int], tiers: U8) -> list[int]:
        """Start reading the first of `missing`, as many as there is room for, and take them off; return their slots."""
        if not missing:
            return []
        slots = self._table.claim(layer_idx, missing, tiers)
        del missing[: len(slots)]
        return slots

    def _finish(self, slots: list[int]) -> None:
        """Everything lacking in these slots has been read."""
        table, size = self._table, self._table.lacking_bytes(slots)
        for slot in slots:
            table.set_ready(slot)
        self._counters.count_read(0, len(slots))
        self._ledger.drain_discards()  # no memory was written, so none goes back
        cast(SimulatedStore, self._store).read_at_once(len(slots), size)
