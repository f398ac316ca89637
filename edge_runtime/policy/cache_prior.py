"""Cache-Prior: the router's logits of resident experts are raised by a share of their usual range.

arXiv 2412.00099, the strategy its authors recommend::

    delta_avg[l] = running mean over tokens of (max z - min z)
    z' = z + lambda * delta_avg[l] * mask      mask: resident experts and the top J
    S  = top-k of z',  weights from the original z
"""

from __future__ import annotations

import numpy as np

from edge_runtime.base.arrays import F32, Bools
from edge_runtime.base.params import Param
from edge_runtime.policy.base import PolicyContext
from edge_runtime.policy.cache_conditional import SHARED_PARAMS, CacheConditional
from edge_runtime.policy.native import CachePriorDecider

PARAMS = {
    "lambda": Param(
        0.1, "bias of residents, as a share of the logits' usual range; 0 changes nothing", "2412.00099", 0, 1
    ),
    **SHARED_PARAMS,
}


class CachePrior(CacheConditional):
    """See the module. The mean is kept for each layer and outlives a sequence; it includes the current token.

    Args:
        context: what it is built for.
        **params: see `PARAMS`.
    """

    name = "cache-prior"
    reads_residency = True
    keeps_history = True

    def __init__(self, context: PolicyContext, **params: float) -> None:
        super().__init__(context, params)
        self._bias = float(params["lambda"])
        self._range_sum, self._tokens = np.zeros(context.num_layers), np.zeros(context.num_layers)
        router = context.router
        places = {layer: place for place, layer in enumerate(router.layers)}
        if router.prefers_logits and not params["admit"]:
            self._native = CachePriorDecider(
                self._bias, self._protected, context.tier, self._range_sum, self._tokens,
                [places.get(layer, -1) for layer in range(context.num_layers)], router.native,
            )  # fmt: skip

    def observe(self, layer_idx: int, preference: F32) -> None:
        """Extend the running mean."""
        if len(preference) == 1:
            self._range_sum[layer_idx] += float(preference.max() - preference.min())
        else:
            self._range_sum[layer_idx] += float((preference.max(axis=1) - preference.min(axis=1)).sum())
        self._tokens[layer_idx] += len(preference)

    def delta_avg(self, layer_idx: int) -> float:
        """Mean range of what a layer's router compares, so far."""
        return float(self._range_sum[layer_idx]) / max(float(self._tokens[layer_idx]), 1.0)

    def choose(self, layer_idx: int, preference: F32, cached: Bools, logits: F32) -> list[int]:
        """See `CacheConditional.choose`."""
        order = (-preference).argsort(kind="stable")
        mask = cached.take(order)
        mask[: self._protected] = True
        raised = preference.take(order) + (self._bias * self.delta_avg(layer_idx)) * mask
        # sorted by the original values first, so that equal raised ones keep the router's order
        ranks = (-raised).argsort(kind="stable")[: self.context.top_k]
        ranks.sort()
        chosen: list[int] = order.take(ranks).tolist()
        return chosen
