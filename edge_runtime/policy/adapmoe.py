"""AdapMoE's sensitivity-gated top-k: where a layer tolerates it, the tail of the experts is dropped. arXiv 2408.10284.

Published for K = 2: drop the second expert if its normalised weight is below sqrt(tau / h_l), which is h_l w^2 < tau.
Our readings: for larger K the tail from a rank on is one expert of its summed weight; h_l comes from this bundle's own
calibration, as the KL divergence a dropped unit of weight costs, so that tau is in nats for each drop. Prompts keep K.
The paper's cache sizes for each layer are an eviction rule (``--eviction layer-sizes``).
"""

from __future__ import annotations

import numpy as np

from edge_runtime.base.arrays import F64
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.params import Param
from edge_runtime.policy.base import Decision, PolicyContext, ResidencyView, Routing
from edge_runtime.policy.decisions import full_decision, keep_first
from edge_runtime.policy.wrappers.watching import PredictsAsItDecides

SOURCE = "AdapMoE, arXiv 2408.10284"
PARAMS = {
    "tau": Param(
        0.0005, "loss a drop may cost, in nats; 0 changes nothing", "2408.10284, in its own unit 0 to 0.013", 0
    )
}


class Adapmoe(PredictsAsItDecides):
    """See the module. Implements `Policy`.

    Args:
        context: what it is built for; its calibration must have been measured on a text unless tau is 0.
        tau: see `PARAMS`.

    Raises:
        ConfigError: the bundle was exported without a calibration text.
    """

    name = "adapmoe"
    reads_residency = False
    keeps_history = False

    def __init__(self, context: PolicyContext, *, tau: float) -> None:
        super().__init__(context, {"tau": tau})
        self._tau = tau
        self._h = sensitivities(context) if tau > 0 else np.ones(context.num_layers)

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        """See `Policy.decide`."""
        weights = routing.topk_weights
        if self._tau == 0 or len(weights) > 1:
            return full_decision(routing, self.context)
        h, total = float(self._h[layer_idx]), float(weights.sum(dtype=np.float64))
        shares, tail, predicted, kept = weights[0].tolist(), 0.0, 0.0, 1
        # from the lightest: the weight of a rank and of all behind it
        for rank in range(len(shares) - 1, 0, -1):
            tail += shares[rank]
            share = tail / total
            loss = h * (share * share)
            if loss >= self._tau:
                kept = rank + 1
                break
            predicted = loss
        return keep_first(routing, kept, self.context)._replace(predicted_kld=predicted)


def sensitivities(context: PolicyContext) -> F64:
    """Return h_l float64 [L]: nats lost for each unit of squared weight that a layer drops.

    Raises:
        ConfigError: nothing was measured.
    """
    out = np.zeros(context.num_layers)
    for layer in context.calibration.layers if context.calibration is not None else []:
        if layer.sensitivity is not None and layer.norms is not None:
            out[layer.layer] = layer.sensitivity.skip * float(np.mean(np.square(layer.norms)))
    if not out.any():
        raise ConfigError(
            "policy 'adapmoe': the bundle has no layer sensitivities. Export it with --calibrate FILE, or use tau=0."
        )
    return out
