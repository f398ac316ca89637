"""What the three strategies of Cache-Conditional Experts share: choose for one token, weigh by the original logits.

Mixture of Cache-Conditional Experts for Efficient Mobile Device Inference, arXiv 2412.00099 (TMLR 2025).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_runtime.base.arrays import F32, U8, Bools, Indices
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.params import Param
from edge_runtime.policy.base import Decision, Hint, PolicyContext, ResidencyView, Routing
from edge_runtime.policy.decisions import chosen_decision, full_decision, tiers_of
from edge_runtime.policy.wrappers.watching import OnePass

SOURCE = "Cache-Conditional Experts, arXiv 2412.00099"
SHARED_PARAMS = {
    "j": Param(
        -1, "ranks always kept; -1: 1 up to 16 experts, else 2", "2412.00099, as two reimplementations read it", -1
    ),
    "admit": Param(
        0, "displaced experts read in the background, per layer and token", "ours, after reports of lock-in", 0
    ),
}
_FEW_EXPERTS = 16


class CacheConditional(OnePass):
    """Chooses K experts for a token, preferring residents. Implements `Policy` with `choose`.

    A pass over several tokens (a prompt) is left to the router, and warms the cache. Displaced experts can be read
    when the drive is idle (`admit`): an expert that is never read is displaced again at every later pick.

    Args:
        context: what it is built for.
        params: all parameters, `j` and `admit` among them.

    Raises:
        ConfigError: j exceeds K.
    """

    def __init__(self, context: PolicyContext, params: dict[str, Any]) -> None:
        if params["j"] > context.top_k:
            raise ConfigError(f"policy {self.name!r}.j: expected at most {context.top_k} (K), got {params['j']}.")
        j = params["j"] if params["j"] >= 0 else 1 if context.num_experts <= _FEW_EXPERTS else 2
        self._protected, self._admit = min(j, context.top_k), params["admit"]
        super().__init__(context, params | {"j": self._protected})

    def observe(self, layer_idx: int, preference: F32) -> None:
        """Take note of what the router compares, float32 [T, E], before the choice."""

    def choose(self, layer_idx: int, preference: F32, cached: Bools, logits: F32) -> list[int]:
        """Return K experts for one token, those the router prefers first.

        Args:
            layer_idx: the layer.
            preference: float32 [E], what the router's choice compares.
            cached: bool [E], resident at the full tier.
            logits: float32 [E].
        """
        raise NotImplementedError

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        """See `Policy.decide`."""
        router = self.context.router
        preference = router.preference(layer_idx, routing)
        self.observe(layer_idx, preference)
        if len(routing.logits) > 1:
            return full_decision(routing, self.context)
        cached = residency.resident_tiers(layer_idx) >= self.context.tier
        row: list[int] = self.choose(layer_idx, preference[0], cached, routing.logits[0])
        wanted: list[int] = routing.topk_ids[0].tolist()
        if row == wanted:
            return chosen_decision(routing, routing.topk_ids, routing.topk_weights, self.context)
        ids, weights = router.weigh(layer_idx, routing.logits, np.array([row], np.int32))
        return chosen_decision(routing, ids, weights, self.context, self._background(layer_idx, row, wanted, cached))

    def predict_tiers(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> U8:
        """See `Policy.predict_tiers`: whom it would choose, residents preferred. Nothing is noted."""
        if len(routing.logits) > 1:
            return full_decision(routing, self.context).tiers
        cached = residency.resident_tiers(layer_idx) >= self.context.tier
        preference = self.context.router.preference(layer_idx, routing)
        row = self.choose(layer_idx, preference[0], cached, routing.logits[0])
        return tiers_of(row, self.context.tier, self.context.num_experts)

    def _background(self, layer_idx: int, row: list[int], wanted: list[int], cached: Bools) -> tuple[Hint, ...]:
        if not self._admit:
            return ()
        displaced = [e for e in wanted if not cached[e] and e not in row][: self._admit]
        return (Hint(layer_idx, tuple(displaced), self.context.tier, is_spare=True),) if displaced else ()


def from_window(order: Indices, cached: Bools, *, window: int, protected: int, top_k: int) -> list[int]:
    """Fill K places: the protected ranks, then residents of the window in rank order, then the rest of the window.

    Args:
        order: intp [E], experts by falling logits.
        cached: bool [E].
        window: M, ranks that may be chosen; at least K are looked at.
        protected: J.
        top_k: K.

    Returns:
        K of them in rank order.
    """
    candidates: list[int] = order[: max(window, top_k)].tolist()
    there = cached.tobytes()
    kept, residents, others = candidates[:protected], list[int](), list[int]()
    for expert in candidates[protected:]:
        (residents if there[expert] else others).append(expert)
    chosen = {*kept, *residents[: top_k - protected]}
    chosen.update(others[: top_k - len(chosen)])
    return [expert for expert in candidates if expert in chosen]
