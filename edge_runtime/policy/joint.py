"""Several sequences in one pass: each policy decides for its own tokens, and one decision serves all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.policy.base import Decision, Policy, ResidencyView, Routing


def decide_together(
    layer_idx: int, routing: Routing, stops: NDArray[np.int_], policies: Sequence[Policy], residency: ResidencyView
) -> Decision:
    """Let each policy decide once for all of its sequences' tokens, and join the decisions into one.

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
    decisions = []
    for policy in {id(policy): policy for policy in policies}.values():
        rows = np.isin(owner, [i for i, other in enumerate(policies) if other is policy])
        own = Routing(routing.logits[rows], routing.topk_ids[rows], routing.topk_weights[rows])
        decisions.append(policy.decide(layer_idx, own, residency))
        ids[rows], weights[rows] = decisions[-1].topk_ids, decisions[-1].topk_weights
    return Decision(
        ids,
        weights,
        np.maximum.reduce([decision.tiers for decision in decisions]),
        substituted=sum(decision.substituted for decision in decisions),
        skipped=sum(decision.skipped for decision in decisions),
        route_changed=sum(decision.route_changed for decision in decisions),
        predicted_kld=_sum_known([decision.predicted_kld for decision in decisions]),
        hints=tuple(hint for decision in decisions for hint in decision.hints),
    )


def _sum_known(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
