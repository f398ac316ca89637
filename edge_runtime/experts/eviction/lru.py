"""Least recently used."""

from __future__ import annotations

import numpy as np

from edge_runtime.base.arrays import F64, U8, Keys
from edge_runtime.experts.eviction.base import KeepingRule, RuleContext

SUMMARY = "the one whose last use is longest ago"


class Lru(KeepingRule):
    """Evict the expert whose last use is longest ago. Order of use outlives a sequence: it costs nothing to keep.

    Args:
        context: the model.
    """

    name = "lru"

    def __init__(self, context: RuleContext) -> None:
        self._last_use = np.zeros(context.num_layers * context.num_experts, np.float64)
        self._ramp = np.arange(1.0, context.num_experts + 1)
        self._uses = 0

    def use(self, keys: Keys, tiers: U8) -> None:
        """Number the uses."""
        self._last_use[keys] = self._uses + self._ramp[: len(keys)]
        self._uses += len(keys)

    def scores(self, keys: Keys, layer_idx: int) -> F64:
        """Return the number of the last use, float64 [S]."""
        return self._last_use.take(keys, mode="wrap")
