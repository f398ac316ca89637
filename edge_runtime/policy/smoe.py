"""Importance-driven substitution (SMoE): residents of similar score replace unimportant missing experts. 2508.18983.

With S the (k+1)-th gate score and a window a: selected experts scoring above (1 + a) S are protected; those in
[S, (1 + a) S) that are not resident are replaced by the best residents, not selected, that score in ((1 - a) S, S].
What finds no substitute is read. Not taken over: its split of leftovers over CPU and PCIe, which this runtime does not
have, and its eviction by mean score. Prompts are left to the router.
"""

from __future__ import annotations

import numpy as np

from edge_runtime.base.arrays import F32, F64
from edge_runtime.base.params import Param
from edge_runtime.policy.base import Decision, PolicyContext, ResidencyView, Routing
from edge_runtime.policy.decisions import chosen_decision, full_decision
from edge_runtime.policy.wrappers.watching import PredictsAsItDecides

SOURCE = "SMoE, arXiv 2508.18983"
PARAMS = {
    "alpha": Param(0.3, "half-width of the window around S; 0 changes nothing", "2508.18983: flat to about 0.3", 0, 1)
}


class Smoe(PredictsAsItDecides):
    """See the module. Implements `Policy`.

    Args:
        context: what it is built for.
        alpha: see `PARAMS`.
    """

    name = "smoe"
    reads_residency = True
    keeps_history = False

    def __init__(self, context: PolicyContext, *, alpha: float) -> None:
        super().__init__(context, {"alpha": alpha})
        self._alpha = alpha

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        """See `Policy.decide`."""
        top_k = self.context.top_k
        if len(routing.logits) > 1 or top_k >= self.context.num_experts or self._alpha == 0:
            return full_decision(routing, self.context)
        resident = residency.resident_tiers(layer_idx).tobytes()
        router = self.context.router
        preference = router.preference(layer_idx, routing)[0]
        row = self.choose(preference, router.odds(routing.logits[0]), routing.topk_ids[0].tolist(), resident)
        if row is None:
            return chosen_decision(routing, routing.topk_ids, routing.topk_weights, self.context)
        ids, weights = router.weigh(layer_idx, routing.logits, np.array([row], np.int32))
        return chosen_decision(routing, ids, weights, self.context)

    def choose(self, preference: F32, odds: F64, wanted: list[int], resident: bytes) -> list[int] | None:
        """Return K experts, or None if nothing is substituted.

        Args:
            preference: float32 [E], what the router's choice compares.
            odds: float64 [E], the experts' scores in units of the best one's.
            wanted: the router's K, heaviest first.
            resident: uint8 [E], the tier each expert is resident at.
        """
        full = self.context.tier
        missing = [rank for rank, expert in enumerate(wanted) if resident[expert] < full]
        if not missing:
            return None
        order: list[int] = (-preference).argsort(kind="stable")[len(wanted) :].tolist()
        scores: list[float] = odds.tolist()
        pivot = scores[order[0]]
        replaceable = [rank for rank in missing if scores[wanted[rank]] < (1 + self._alpha) * pivot]
        row, place = list(wanted), len(replaceable)
        for expert in order:
            if place == 0 or scores[expert] <= (1 - self._alpha) * pivot:
                break
            if resident[expert] >= full:  # the least important are replaced first
                place -= 1
                row[replaceable[place]] = expert
        return None if place == len(replaceable) else row
