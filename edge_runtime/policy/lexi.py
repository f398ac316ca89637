"""LExI: every layer has its own fixed number of experts. arXiv 2509.02753."""

from __future__ import annotations

import numpy as np

from edge_runtime.base.params import Param, per_layer
from edge_runtime.policy.base import Decision, PolicyContext, ResidencyView, Routing
from edge_runtime.policy.decisions import keep, keep_first
from edge_runtime.policy.wrappers.watching import PredictsAsItDecides

SOURCE = "LExI, arXiv 2509.02753"
PARAMS = {
    "k": Param(
        "0", "experts of a layer; one value, or one a layer as 4/3/...; 0: three quarters of K",
        "2509.02753; its data-free estimate of k is not built in, so k is given",
    ),
}  # fmt: skip


class Lexi(PredictsAsItDecides):
    """The first k_l experts, scaled to the weight of all K. Implements `Policy`.

    Args:
        context: what it is built for.
        k: see `PARAMS`.

    Raises:
        ConfigError: k is not a number from 0 to K, or one for each layer.
    """

    name = "lexi"
    reads_residency = False
    keeps_history = False

    def __init__(self, context: PolicyContext, *, k: str) -> None:
        super().__init__(context, {"k": k})
        counts = per_layer(k, context.num_layers, "policy 'lexi'.k", low=0, high=context.top_k)
        self._counts = np.where(counts > 0, counts, max(1, 3 * context.top_k // 4)).astype(np.intp)
        self._ranks = np.arange(context.top_k)

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        """See `Policy.decide`."""
        if len(routing.topk_weights) == 1:
            return keep_first(routing, int(self._counts[layer_idx]), self.context)
        kept = np.broadcast_to(self._ranks < self._counts[layer_idx], routing.topk_weights.shape)
        return keep(routing, kept, self.context)
