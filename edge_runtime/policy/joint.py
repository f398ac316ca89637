"""Several sequences in one pass: each policy decides for its own tokens, and one plan serves all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.policy.base import Policy, ResidencyView, Routing, StepPlan


def decide_together(
    layer_idx: int, routing: Routing, stops: NDArray[np.int_], policies: Sequence[Policy], residency: ResidencyView
) -> StepPlan:
    """Let each policy decide once for all of its sequences' tokens, and join the plans into one.

    An expert that several policies use is served at the deepest tier any of them asks for.

    Args:
        layer_idx: the layer.
        routing: of all tokens, sequence after sequence.
        stops: where each sequence but the last ends.
        policies: of each sequence.
        residency: what is resident.
    """
    if len(policies) == 1 or all(policy is policies[0] for policy in policies):
        return policies[0].decide(layer_idx, routing, residency)
    owner = np.zeros(len(routing.topk_ids), np.intp)
    owner[stops] = 1
    owner = np.cumsum(owner)
    ids, weights = routing.topk_ids.copy(), routing.topk_weights.copy()
    plans = []
    for policy in {id(policy): policy for policy in policies}.values():
        rows = np.isin(owner, [i for i, other in enumerate(policies) if other is policy])
        own = Routing(routing.logits[rows], routing.topk_ids[rows], routing.topk_weights[rows])
        plans.append(policy.decide(layer_idx, own, residency))
        ids[rows], weights[rows] = plans[-1].topk_ids, plans[-1].topk_weights
    return StepPlan(
        ids,
        weights,
        np.maximum.reduce([plan.tiers for plan in plans]),
        substituted=sum(plan.substituted for plan in plans),
        skipped=sum(plan.skipped for plan in plans),
        route_changed=sum(plan.route_changed for plan in plans),
        predicted_kld=_sum_known([plan.predicted_kld for plan in plans]),
        hints=tuple(hint for plan in plans for hint in plan.hints),
    )


def _sum_known(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
