"""Importance-driven substitution (SMoE): unimportant missing experts give way to residents nearly as good. 2508.18983.

With S the (k+1)-th gate score and a window a: selected experts scoring above (1 + a) S are protected; those in
[S, (1 + a) S) that are not resident are replaced by the best residents, not selected, that score in ((1 - a) S, S].
What finds no substitute is read. Not taken over: its split of leftovers over CPU and PCIe, which this runtime does not
have, and its eviction by mean score. Prompts are left to the router.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.policy.base import PolicyContext, ResidencyView, Routing, StepPlan
from edge_runtime.policy.params import Param
from edge_runtime.policy.plans import chosen_plan, full_plan, weights_over
from edge_runtime.policy.wrapping import OnePass

SOURCE = "SMoE, arXiv 2508.18983"
PARAMS = {
    "alpha": Param(0.3, "half-width of the window around S; 0 changes nothing", "2508.18983: flat to about 0.3", 0, 1)
}


class Smoe(OnePass):
    """See the module. Implements `Policy`.

    Args:
        context: what it is built for.
        alpha: see `PARAMS`.
    """

    name = "smoe"

    def __init__(self, context: PolicyContext, *, alpha: float) -> None:
        super().__init__(context, {"alpha": alpha})
        self._alpha = alpha

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> StepPlan:
        """See `Policy.decide`."""
        top_k = self.context.top_k
        if len(routing.logits) > 1 or top_k >= self.context.num_experts or self._alpha == 0:
            return full_plan(routing, self.context)
        cached = residency.resident_tiers(layer_idx) >= self.context.tier
        row = self.choose(routing.logits[0], routing.topk_ids[0], cached)
        if row is None:
            return chosen_plan(routing, routing.topk_ids, routing.topk_weights, self.context)
        weights = weights_over(routing.logits, row[None], normalise=self.context.norm_topk_prob)
        return chosen_plan(routing, row[None], weights, self.context)

    def choose(
        self, logits: NDArray[np.float32], wanted: NDArray[np.int32], cached: NDArray[np.bool_]
    ) -> NDArray[np.int32] | None:
        """Return int32 [K] in the order of their logits, or None if nothing is substituted.

        Args:
            logits: float32 [E].
            wanted: int32 [K], the router's choice, best first.
            cached: bool [E].
        """
        missing = ~cached[wanted]
        if not missing.any():
            return None
        order = np.argsort(-logits, kind="stable")
        scores = np.exp(logits[order].astype(np.float64) - logits[order[0]])  # in units of the best one's
        pivot = scores[self.context.top_k]
        replaceable = np.flatnonzero(missing & (scores[: len(wanted)] < (1 + self._alpha) * pivot))
        rest, rest_scores = order[len(wanted) :], scores[len(wanted) :]
        substitutes = rest[cached[rest] & (rest_scores > (1 - self._alpha) * pivot)][: len(replaceable)]
        if not len(substitutes):
            return None
        row = wanted.copy()
        # the least important go first
        row[replaceable[::-1][: len(substitutes)]] = substitutes
        return np.asarray(row[np.argsort(-logits[row], kind="stable")], np.int32)
