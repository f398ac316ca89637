"""Dynamic expert skipping: an expert much lighter than the first is dropped. Not All Experts Are Equal, 2402.14800."""

from __future__ import annotations

import numpy as np

from edge_runtime.base.params import Param, per_layer
from edge_runtime.policy.base import Decision, PolicyContext, ResidencyView, Routing
from edge_runtime.policy.decisions import keep, keep_first
from edge_runtime.policy.wrappers.watching import PredictsAsItDecides

SOURCE = "Not All Experts Are Equal, arXiv 2402.14800"
PARAMS = {
    "beta": Param(
        "0.5", "drop w_i < beta w_0; one value, or one a layer as 0.4/0.5/...; the paper's is the median of w_1 / w_0",
        "2402.14800; the default is ours",
    ),
}  # fmt: skip


class Skip(PredictsAsItDecides):
    """Drops experts with w_i < beta_l w_0 and scales the rest to the weight of all. Implements `Policy`.

    The paper has K = 2, where this is the second expert; for larger K every rank is compared with the first (our
    reading).

    Args:
        context: what it is built for.
        beta: see `PARAMS`.

    Raises:
        ConfigError: beta is not a number from 0 to 1, or one for each layer.
    """

    name = "skip"
    reads_residency = False
    keeps_history = False

    def __init__(self, context: PolicyContext, *, beta: str) -> None:
        super().__init__(context, {"beta": beta})
        self._beta = per_layer(beta, context.num_layers, "policy 'skip'.beta", low=0, high=1).astype(np.float32)

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        """See `Policy.decide`."""
        weights, beta = routing.topk_weights, self._beta[layer_idx]
        if len(weights) == 1:  # the heaviest come first
            shares, least = weights[0].tolist(), float(beta * weights[0, 0])
            return keep_first(routing, sum(share >= least for share in shares), self.context)
        return keep(routing, weights >= beta * weights[:, :1], self.context)
