"""HOBBIT's multidimensional rule: several records of use in one weighted sum."""

from __future__ import annotations

import numpy as np

from edge_runtime.base.arrays import F32, U8, Keys
from edge_runtime.base.params import Param
from edge_runtime.experts.eviction.base import KeepingRule, RuleContext

SUMMARY = "recency, frequency, uses at the full tier and layer distance, weighted"
PARAMS = {
    "lru": Param(0.25, "weight of recency", "HOBBIT; weights unpublished, 0.25 from a reimplementation", 0, 1),
    "lfu": Param(0.25, "weight of uses in this sequence", "as lru", 0, 1),
    "lhu": Param(0.25, "weight of uses at the full tier in this sequence", "as lru", 0, 1),
    "fld": Param(0.25, "weight of nearness of the layer", "as lru", 0, 1),
}


class Multidimensional(KeepingRule):
    """The sequence-level cache rule of HOBBIT, arXiv 2411.01433.

    For a resident expert t while layer l_i needs room::

        p_t = w_lru R_t/T + w_lfu F_t/T + w_lhu H_t/T + w_fld (1 - ((l_t - l_i + L) mod L) / L)

    and argmin p_t is evicted. R_t: number of the token that used t last; F_t, H_t: uses in this sequence, and those at
    high precision; T: number of the current token. Records start anew with a sequence. Our readings: one pool instead
    of two (a low expert is one with fewer planes), and a pass over several tokens counts one use and one token. The
    weights are divided by their sum.

    Args:
        context: the model; a use at its full tier is a high one.
        lru: weight of recency.
        lfu: weight of uses in this sequence.
        lhu: weight of uses at the full tier in this sequence.
        fld: weight of the nearness of the expert's layer.
    """

    name = "mdc"

    def __init__(self, context: RuleContext, *, lru: float, lfu: float, lhu: float, fld: float) -> None:
        total = (lru + lfu + lhu + fld) or 1.0
        self._lru, self._lfu, self._lhu, self._fld = (np.float32(w / total) for w in (lru, lfu, lhu, fld))
        self._num_layers, self._full_tier = context.num_layers, context.full_tier
        self._last = np.zeros(context.num_layers * context.num_experts, np.float32)
        self._uses = np.zeros_like(self._last)
        self._high = np.zeros_like(self._last)
        self._passes = 0

    def begin_sequence(self) -> None:
        """Reset every record."""
        for record in (self._last, self._uses, self._high):
            record[:] = 0
        self._passes = 0

    def begin_pass(self) -> None:
        """Count the token."""
        self._passes += 1

    def use(self, keys: Keys, tiers: U8) -> None:
        """Note recency, a use, and whether it was a high one."""
        self._last[keys] = self._passes
        self._uses[keys] += 1
        self._high[keys] += tiers >= self._full_tier

    def scores(self, keys: Keys, layer_idx: int) -> F32:
        """Return p_t, float32 [S]."""
        by_key = self._lru * self._last + self._lfu * self._uses + self._lhu * self._high
        by_key *= np.float32(1 / max(self._passes, 1))
        ahead = (np.arange(self._num_layers) - layer_idx) % self._num_layers
        nearness = (self._fld * (1 - ahead / self._num_layers)).astype(np.float32)
        by_key = by_key.reshape(self._num_layers, -1) + nearness[:, None]
        return np.asarray(by_key.take(keys, mode="wrap"), np.float32)
