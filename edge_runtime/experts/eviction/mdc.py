"""Eviction rules that weigh several records of use: HOBBIT's multidimensional rule, and frequency that fades (LFRU)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.params import Param

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Keys = NDArray[np.intp]

MDC_PARAMS = {
    "lru": Param(0.25, "weight of recency", "HOBBIT; weights unpublished, 0.25 from a reimplementation", 0, 1),
    "lfu": Param(0.25, "weight of uses in this sequence", "as lru", 0, 1),
    "lhu": Param(0.25, "weight of uses at the full tier in this sequence", "as lru", 0, 1),
    "fld": Param(0.25, "weight of nearness of the layer", "as lru", 0, 1),
}
LFRU_PARAMS = {"half_life": Param(64, "passes after which a use counts half", "ours", 1)}


class Multidimensional:
    """The sequence-level cache rule of HOBBIT, arXiv 2411.01433.

    For a resident expert t while layer l_i needs room::

        p_t = w_lru R_t/T + w_lfu F_t/T + w_lhu H_t/T + w_fld (1 - ((l_t - l_i + L) mod L) / L)

    and argmin p_t is evicted. R_t: number of the token that used t last; F_t, H_t: uses in this sequence, and those at
    high precision; T: number of the current token. Records start anew with a sequence. Our readings: one pool instead
    of two (a low expert is one with fewer planes), and a pass over several tokens counts one use and one token. The
    weights are divided by their sum.

    Args:
        num_layers: L.
        num_experts: E.
        full_tier: the tier whose use is a high one.
        lru: see `MDC_PARAMS`, and likewise the others.
        lfu: see `MDC_PARAMS`.
        lhu: see `MDC_PARAMS`.
        fld: see `MDC_PARAMS`.
    """

    name = "mdc"

    def __init__(
        self, num_layers: int, num_experts: int, full_tier: int, *, lru: float, lfu: float, lhu: float, fld: float
    ) -> None:
        total = (lru + lfu + lhu + fld) or 1.0
        self._lru, self._lfu, self._lhu, self._fld = (np.float32(w / total) for w in (lru, lfu, lhu, fld))
        self._num_layers, self._full_tier = num_layers, full_tier
        self._last = np.zeros(num_layers * num_experts, np.float32)
        self._uses = np.zeros_like(self._last)
        self._high = np.zeros_like(self._last)
        self._passes = 0

    def begin_sequence(self) -> None:
        """Reset every record."""
        for record in (self._last, self._uses, self._high):
            record[:] = 0
        self._passes = 0

    def begin_pass(self) -> None:
        """See `EvictionRule.begin_pass`."""
        self._passes += 1

    def use(self, keys: Keys, tiers: U8) -> None:
        """See `EvictionRule.use`."""
        self._last[keys] = self._passes
        self._uses[keys] += 1
        self._high[keys] += tiers >= self._full_tier

    def scores(self, keys: Keys, layer_idx: int) -> F32:
        """See `EvictionRule.scores`: p_t, float32 [S]."""
        by_key = self._lru * self._last + self._lfu * self._uses + self._lhu * self._high
        by_key *= np.float32(1 / max(self._passes, 1))
        ahead = (np.arange(self._num_layers) - layer_idx) % self._num_layers
        nearness = (self._fld * (1 - ahead / self._num_layers)).astype(np.float32)
        by_key = by_key.reshape(self._num_layers, -1) + nearness[:, None]
        return np.asarray(by_key.take(keys, mode="wrap"), np.float32)


class Lfru:
    """Uses counted with a half-life, so that frequency and recency are one number. It outlives a sequence.

    Args:
        num_layers: L.
        num_experts: E.
        half_life: passes after which a use counts half.
    """

    name = "lfru"

    def __init__(self, num_layers: int, num_experts: int, *, half_life: int) -> None:
        # kept as counts at pass 0's scale: a later use counts more instead of all earlier ones counting less
        self._growth = 2.0 ** (1.0 / half_life)
        self._weight = 1.0
        self._count = np.zeros(num_layers * num_experts, np.float64)

    def begin_sequence(self) -> None:
        """Keep everything."""

    def begin_pass(self) -> None:
        """See `EvictionRule.begin_pass`."""
        self._weight *= self._growth
        if self._weight > 1e100:
            self._count /= self._weight
            self._weight = 1.0

    def use(self, keys: Keys, tiers: U8) -> None:
        """See `EvictionRule.use`."""
        self._count[keys] += self._weight

    def scores(self, keys: Keys, layer_idx: int) -> NDArray[np.float64]:
        """See `EvictionRule.scores`: fading uses, float64 [S]."""
        return np.asarray(self._count.take(keys, mode="wrap") / self._weight)
