"""Measures what a pass costs, for `BatchWidth`."""

from __future__ import annotations

from time import monotonic

from edge_runtime.engine.batch_width import PassCost
from edge_runtime.experts.cache import ExpertCache


class CostMeter:
    """Measures a pass from its making on.

    Args:
        cache: counts what the pass asks for.
    """

    def __init__(self, cache: ExpertCache) -> None:
        self._cache, self._started = cache, monotonic()
        self._lookups, self._hits = cache.residents.lookup_counts()

    def read(self, width: int) -> PassCost:
        """Return what a pass of so many sequences has cost."""
        seconds = monotonic() - self._started
        lookups, hits = self._cache.residents.lookup_counts()
        return PassCost(width, seconds, lookups - self._lookups, hits - self._hits)
