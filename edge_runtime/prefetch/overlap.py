"""Starts the reads of one sequence while the trunk runs the next one of the same pass. No prediction is involved."""

from __future__ import annotations

import numpy as np

from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.store.base import Priority
from edge_runtime.policy.base import Policy, Routing


class OverlapReads:
    """Keeps the drive busy while the dense part of a layer runs sequence by sequence.

    Only for passes none of whose policies looks at residency: what was read already would change its decisions.

    Args:
        cache: reads.
    """

    def __init__(self, cache: ExpertCache) -> None:
        self._cache = cache

    def begin(self, layer_idx: int, routing: Routing, policy: Policy) -> None:
        """Start reading what a sequence will ask for when the layer's other sequences have run; waits for nothing.

        Args:
            layer_idx: the layer, asked for next.
            routing: of the sequence.
            policy: of the sequence.
        """
        if policy.reads_residency or self._cache.fits_all:
            return
        tiers = policy.predict_tiers(layer_idx, routing, self._cache)
        experts = np.flatnonzero(tiers).tolist()
        self._cache.mask(layer_idx, experts)  # the next sequence's reads must not evict what this one found
        self._cache.prefetch(layer_idx, experts, tiers, Priority.NEXT)
