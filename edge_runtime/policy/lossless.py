"""Lossless: the router's own choice at the full tier. The default, and what every other policy is measured against."""

from __future__ import annotations

import numpy as np

from edge_runtime.policy.base import ResidencyView, Routing, StepPlan


class Lossless:
    """Changes nothing. Implements `Policy`.

    Args:
        num_experts: E.
        tier: the tier that counts as full.
    """

    name = "lossless"

    def __init__(self, *, num_experts: int, tier: int) -> None:
        self._num_experts, self._tier = num_experts, tier

    @property
    def params(self) -> dict[str, float | int | str | bool]:
        """None."""
        return {}

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> StepPlan:
        """See `Policy.decide`. An expert whose weight is exactly 0 for every token adds nothing and is not read."""
        tiers = np.zeros(self._num_experts, np.uint8)
        tiers[routing.topk_ids[routing.topk_weights != 0]] = self._tier
        return StepPlan(routing.topk_ids, routing.topk_weights, tiers)

    def begin_sequence(self) -> None:
        """Nothing to forget."""
