"""Least frequently and recently used: frequency that fades."""

from __future__ import annotations

import numpy as np

from edge_runtime.base.arrays import F64, U8, Keys
from edge_runtime.base.params import Param
from edge_runtime.experts.eviction.base import KeepingRule, RuleContext

SUMMARY = "by frequency and recency of use"
PARAMS = {"half_life": Param(64, "passes after which a use counts half", "ours", 1)}


class Lfru(KeepingRule):
    """Uses counted with a half-life, so that frequency and recency are one number. It outlives a sequence.

    Args:
        context: the model.
        half_life: passes after which a use counts half.
    """

    name = "lfru"

    def __init__(self, context: RuleContext, *, half_life: int) -> None:
        # kept as counts at pass 0's scale: a later use counts more instead of all earlier ones counting less
        self._growth = 2.0 ** (1.0 / half_life)
        self._weight = 1.0
        self._count = np.zeros(context.num_layers * context.num_experts, np.float64)

    def begin_pass(self) -> None:
        """Let a use count more than those of earlier passes."""
        self._weight *= self._growth
        if self._weight > 1e100:
            self._count /= self._weight
            self._weight = 1.0

    def use(self, keys: Keys, tiers: U8) -> None:
        """Count a use."""
        self._count[keys] += self._weight

    def scores(self, keys: Keys, layer_idx: int) -> F64:
        """Return the fading number of uses, float64 [S]."""
        return np.asarray(self._count.take(keys, mode="wrap") / self._weight)
