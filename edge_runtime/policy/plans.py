"""Building step plans: the pieces every policy needs, vectorised over tokens and ranks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edge_runtime.policy.base import Hint, PolicyContext, Routing, StepPlan

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]


def full_plan(routing: Routing, context: PolicyContext, hints: tuple[Hint, ...] = ()) -> StepPlan:
    """The router's own choice at the full tier."""
    tiers = np.zeros(context.num_experts, np.uint8)
    if routing.topk_weights.all():  # a weight that rounds to 0 is rare
        tiers[routing.topk_ids.ravel()] = context.tier
    else:
        tiers[routing.topk_ids[routing.topk_weights != 0]] = context.tier
    return StepPlan(routing.topk_ids, routing.topk_weights, tiers, hints=hints)


def chosen_plan(
    routing: Routing, ids: I32, weights: F32, context: PolicyContext, hints: tuple[Hint, ...] = ()
) -> StepPlan:
    """A choice of our own at the full tier, with what it changes counted.

    Args:
        routing: the router's choice.
        ids: int32 [T, K], heaviest first.
        weights: float32 [T, K]; 0 where a use is dropped.
        context: the model.
        hints: passed on.
    """
    used = weights != 0
    tiers = np.zeros(context.num_experts, np.uint8)
    tiers[ids[used]] = context.tier
    return StepPlan(
        ids, weights, tiers, skipped=count_skipped(routing, weights), route_changed=count_changed(routing, ids, used),
        use_order=lightest_last(ids, weights), hints=hints,
    )  # fmt: skip


def keep(
    routing: Routing, kept: NDArray[np.bool_], context: PolicyContext, *, predicted_kld: float | None = None
) -> StepPlan:
    """The router's choice at the full tier less what is not kept, scaled to the weight there was.

    Args:
        routing: the router's choice.
        kept: bool [T, K].
        context: the model.
        predicted_kld: see `StepPlan`.
    """
    weights = routing.topk_weights
    if kept.all():
        plan = chosen_plan(routing, routing.topk_ids, weights, context)
    else:
        left = np.where(kept, weights, np.float32(0))
        total = left.sum(axis=1, keepdims=True)
        left *= weights.sum(axis=1, keepdims=True) / np.where(total > 0, total, np.float32(1))
        plan = chosen_plan(routing, routing.topk_ids, left, context)
    return plan if predicted_kld is None else replace(plan, predicted_kld=predicted_kld)


def count_skipped(routing: Routing, weights: F32) -> int:
    """Uses the router asked for that have weight 0 now."""
    return max(int(np.count_nonzero(routing.topk_weights)) - int(np.count_nonzero(weights)), 0)


def count_changed(routing: Routing, ids: I32, used: NDArray[np.bool_]) -> int:
    """Uses of experts the router did not choose for their token."""
    if ids is routing.topk_ids:
        return 0
    if len(ids) == 1:
        mine, own = set(ids[0][used[0]].tolist()), set(routing.topk_ids[0].tolist())
        return len(mine - own)
    foreign = (ids[:, :, None] != routing.topk_ids[:, None, :]).all(axis=2)
    return int(np.count_nonzero(foreign & used))


def lightest_last(ids: I32, weights: F32) -> NDArray[np.intp] | None:
    """Experts of one token from the heaviest to the lightest, so that the heaviest is the least recently used.

    Cache-Conditional Experts inserts in this order, which is that of `ids`; several tokens have none (None).
    """
    if len(ids) != 1:
        return None
    return np.asarray(ids[0][weights[0] != 0], np.intp)


def weights_over(logits: F32, ids: I32, *, normalise: bool) -> F32:
    """Combine weights of chosen experts by the model's own rule, from the router's original logits.

    Args:
        logits: float32 [T, E].
        ids: int32 [T, K].
        normalise: divide by the sum over the chosen ones (else over all experts).
    """
    highest = logits.max(axis=1, keepdims=True)
    chosen = np.exp(logits[np.arange(len(ids))[:, None], ids] - highest)
    total = chosen if normalise else np.exp(logits - highest)
    return np.asarray(chosen / total.sum(axis=1, keepdims=True), np.float32)


def top(logits: F32, count: int) -> I32:
    """Ids int32 [T, count] of the greatest logits, best first; equal ones by number, as the router does."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :count].astype(np.int32)
