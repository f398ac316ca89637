"""Cumulative threshold: as Max-Rank, but the window ends where the mass of the router reaches p. arXiv 2412.00099."""

from __future__ import annotations

import numpy as np

from edge_runtime.base.arrays import F32, F64, Bools
from edge_runtime.base.params import Param
from edge_runtime.policy.base import PolicyContext
from edge_runtime.policy.cache_conditional import SHARED_PARAMS, CacheConditional, from_window

PARAMS = {
    "p": Param(
        0.8,
        "mass of the experts that may be chosen; 0 changes nothing",
        "2412.00099 (no operating point is public)",
        0,
        1,
    ),
    **SHARED_PARAMS,
}


class Cumsum(CacheConditional):
    """A window as wide as the router is unsure; never fewer than K experts (our reading).

    Args:
        context: what it is built for.
        **params: see `PARAMS`.
    """

    name = "cumsum"
    reads_residency = True
    keeps_history = False

    def __init__(self, context: PolicyContext, **params: float) -> None:
        super().__init__(context, params)
        self._mass = float(params["p"])

    def choose(self, layer_idx: int, preference: F32, cached: Bools, logits: F32) -> list[int]:
        """See `CacheConditional.choose`."""
        order = (-preference).argsort(kind="stable")
        window = window_of(self.context.router.odds(logits).take(order), self._mass)
        return from_window(order, cached, window=window, protected=self._protected, top_k=self.context.top_k)


def window_of(odds: F64, mass: float) -> int:
    """Smallest number of leading experts whose share of all scores, float64 [E] as preferred, reaches `mass`."""
    return int(odds.cumsum().searchsorted(mass * np.add.reduce(odds), side="left")) + 1
