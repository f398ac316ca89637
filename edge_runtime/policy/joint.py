"""Several sequences in one pass: each policy decides for its own tokens, and one decision serves all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edge_runtime.base.arrays import U8, Bools, Indices
from edge_runtime.policy.base import Decision, Policy, ResidencyView, Routing


class PassPolicies:
    """The policies of a pass, each asked for the tokens of its own sequences.

    Attributes:
        decide: as `Policy.decide`, for all tokens of the pass. An expert that several policies use is served at the
            deepest tier any of them asks for, and counts as used when the last of them does.
        predict_tiers: as `Policy.predict_tiers`, joined the same way.
        reads_residency: whether any of them does.
        follows_router: whether all of them do.
        native: what native code asks instead, where there is one policy and it has that.

    Args:
        policies: of each sequence.
        tokens: tokens of each sequence.
    """

    def __init__(self, policies: Sequence[Policy], tokens: Sequence[int]) -> None:
        distinct = list({id(policy): policy for policy in policies}.values())
        self.reads_residency = True in [policy.reads_residency for policy in distinct]
        self.follows_router = False not in [policy.follows_router for policy in distinct]
        self.native = distinct[0].native if len(distinct) == 1 else None
        self.decide: Callable[[int, Routing, ResidencyView], Decision] = distinct[0].decide
        self.predict_tiers: Callable[[int, Routing, ResidencyView], U8] = distinct[0].predict_tiers
        if len(distinct) > 1:
            owner = np.repeat([distinct.index(policy) for policy in policies], tokens)
            self._parts = [(policy, owner == i) for i, policy in enumerate(distinct)]
            self.decide, self.predict_tiers = self._decide, self._predict_tiers

    def _decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        ids, weights = routing.topk_ids.copy(), routing.topk_weights.copy()
        decisions = []
        for policy, rows in self._parts:
            decisions.append(policy.decide(layer_idx, _rows(routing, rows), residency))
            ids[rows], weights[rows] = decisions[-1].topk_ids, decisions[-1].topk_weights
        return Decision(
            ids,
            weights,
            np.maximum.reduce([decision.tiers for decision in decisions]),
            substituted=sum(decision.substituted for decision in decisions),
            skipped=sum(decision.skipped for decision in decisions),
            route_changed=sum(decision.route_changed for decision in decisions),
            predicted_kld=_sum_known([decision.predicted_kld for decision in decisions]),
            use_order=_joined_order(decisions),
            hints=tuple(hint for decision in decisions for hint in decision.hints),
        )

    def _predict_tiers(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> U8:
        parts = [policy.predict_tiers(layer_idx, _rows(routing, rows), residency) for policy, rows in self._parts]
        tiers: U8 = np.maximum.reduce(parts)
        return tiers


def _rows(routing: Routing, rows: Bools) -> Routing:
    return Routing(routing.logits[rows], routing.topk_ids[rows], routing.topk_weights[rows])


def _joined_order(decisions: Sequence[Decision]) -> Indices | None:
    """Return the experts of all, each once, where its last use is; None if no decision has an order: all by number.

    Decisions come one after another, by the first sequence of each policy. Those without an order, as decisions for
    several tokens are, use experts by number. An `OrderedRule` goes by what each token uses instead.
    """
    if all(decision.use_order is None for decision in decisions):
        return None
    orders = [d.tiers.nonzero()[0] if d.use_order is None else d.use_order for d in decisions]
    latest_first = dict.fromkeys(np.concatenate(orders)[::-1].tolist())
    return np.array([*latest_first][::-1], np.intp)


def _sum_known(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
