"""Lossless: the router's own choice at the full tier. The default, and what every other policy is measured against."""

from __future__ import annotations

from edge_runtime.policy.base import Decision, PolicyContext, ResidencyView, Routing
from edge_runtime.policy.decisions import full_decision
from edge_runtime.policy.wrappers.watching import PredictsAsItDecides


class Lossless(PredictsAsItDecides):
    """Changes nothing. Implements `Policy`.

    Args:
        context: what it is built for.
    """

    name = "lossless"
    reads_residency = False
    follows_router = True
    keeps_history = False

    def __init__(self, context: PolicyContext) -> None:
        super().__init__(context, {})

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        """See `Policy.decide`. An expert whose weight is exactly 0 for every token adds nothing and is not read."""
        return full_decision(routing, self.context)
