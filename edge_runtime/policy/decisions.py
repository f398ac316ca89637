"""Builds decisions: what every policy needs. On arrays over tokens and ranks, for one token on plain lists.

A token has K experts, and a call of numpy costs as much as handling eight of them one by one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edge_runtime.base.arrays import F32, I32, U8, Bools
from edge_runtime.policy.base import Decision, Hint, PolicyContext, Routing


def full_decision(routing: Routing, context: PolicyContext, hints: tuple[Hint, ...] = ()) -> Decision:
    """Return the router's own choice at the full tier."""
    ids, weights = routing.topk_ids, routing.topk_weights
    if len(ids) == 1:
        tiers = tiers_of(_used(ids, weights), context.tier, context.num_experts)
    else:
        tiers = np.zeros(context.num_experts, np.uint8)
        tiers[ids.ravel() if weights.all() else ids[weights != 0]] = context.tier  # a weight that rounds to 0 is rare
    return Decision(ids, weights, tiers, hints=hints)


def chosen_decision(
    routing: Routing, ids: I32, weights: F32, context: PolicyContext, hints: tuple[Hint, ...] = ()
) -> Decision:
    """Return a choice at the full tier, with what it changes counted.

    Args:
        routing: the router's choice.
        ids: int32 [T, K], heaviest first.
        weights: float32 [T, K]; 0 where a use is dropped.
        context: the model.
        hints: passed on.
    """
    if len(ids) == 1:
        return _chosen_for_one(routing, ids, weights, context, hints)
    used = weights != 0
    tiers = np.zeros(context.num_experts, np.uint8)
    tiers[ids[used]] = context.tier
    return Decision(
        ids, weights, tiers, skipped=count_skipped(routing, weights), route_changed=count_changed(routing, ids, used),
        hints=hints,
    )  # fmt: skip


def _chosen_for_one(
    routing: Routing, ids: I32, weights: F32, context: PolicyContext, hints: tuple[Hint, ...] = ()
) -> Decision:
    """Do the same for one token: lists of K are cheaper than arrays.

    Cache-Conditional Experts inserts from the heaviest to the lightest, so that the heaviest is the least recently
    used: that is the order of `ids`. Several tokens have none.
    """
    used = _used(ids, weights)
    asked = len(used) if weights is routing.topk_weights else len(_used(routing.topk_ids, routing.topk_weights))
    changed = 0 if ids is routing.topk_ids else len(set(used).difference(routing.topk_ids[0].tolist()))
    return Decision(
        ids, weights, tiers_of(used, context.tier, context.num_experts), skipped=max(asked - len(used), 0),
        route_changed=changed, use_order=np.array(used, np.intp), hints=hints,
    )  # fmt: skip


def keep(routing: Routing, kept: Bools, context: PolicyContext) -> Decision:
    """Return the router's choice at the full tier without what is not kept, scaled to the weight of all.

    Args:
        routing: the router's choice.
        kept: bool [T, K].
        context: the model.
    """
    weights = routing.topk_weights
    if not kept.all():
        left = np.where(kept, weights, np.float32(0))
        total = left.sum(axis=1, keepdims=True)
        left *= weights.sum(axis=1, keepdims=True) / np.where(total > 0, total, np.float32(1))
        weights = left
    return chosen_decision(routing, routing.topk_ids, weights, context)


def keep_first(routing: Routing, count: int, context: PolicyContext) -> Decision:
    """`keep` for one token of which the `count` heaviest experts, at least 1, are kept."""
    weights = routing.topk_weights
    if count < weights.shape[1]:
        left = weights.copy()
        left[0, count:] = 0
        total = left.sum()
        left *= weights.sum() / (total if total > 0 else np.float32(1))
        weights = left
    return _chosen_for_one(routing, routing.topk_ids, weights, context)


def tiers_of(experts: Iterable[int], tier: int, num_experts: int) -> U8:
    """Return uint8 [E]: `tier` for some experts, 0 for the others."""
    tiers = bytearray(num_experts)
    for expert in experts:
        tiers[expert] = tier
    return np.frombuffer(tiers, np.uint8)


def _used(ids: I32, weights: F32) -> list[int]:
    """Experts of the only token whose weight is not 0, in order."""
    experts: list[int] = ids[0].tolist()
    shares = weights[0].tolist()
    return [e for e, share in zip(experts, shares, strict=True) if share != 0] if 0.0 in shares else experts


def count_skipped(routing: Routing, weights: F32) -> int:
    """Uses the router asked for that have weight 0 now."""
    return max(int(np.count_nonzero(routing.topk_weights)) - int(np.count_nonzero(weights)), 0)


def count_changed(routing: Routing, ids: I32, used: Bools) -> int:
    """Uses of experts the router did not choose for their token."""
    if ids is routing.topk_ids:
        return 0
    foreign = (ids[:, :, None] != routing.topk_ids[:, None, :]).all(axis=2)
    return int(np.count_nonzero(foreign & used))
