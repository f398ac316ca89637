"""The router's rule in plain numpy, float64 throughout: slow, obvious, what the native rule is tested against.

Written from `edge_runtime.base.spec.RouterSpec`, not from the C++.
"""

from __future__ import annotations

import numpy as np

from edge_runtime.base.arrays import F32, F64, I32
from edge_runtime.base.spec import RouterSpec


def scores(spec: RouterSpec, logits: F64) -> F64:
    """Return the score of every expert, float64 [T, E]."""
    if spec.score == "sigmoid":
        return np.asarray(np.exp(-np.logaddexp(0, -logits)))
    if spec.score == "sqrt_softplus":
        return np.asarray(np.sqrt(np.logaddexp(0, logits)))
    odds: F64 = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def compared(spec: RouterSpec, logits: F64, selection_bias: F32 | None = None) -> F64:
    """Return what the choice compares, float64 [T, E]; -inf in groups that are not chosen."""
    keys: F64 = np.array(scores(spec, logits) if spec.softmax_over == "all" else logits)
    if selection_bias is not None:
        keys += selection_bias
    if spec.groups is None:
        return keys
    by_group = keys.reshape(len(keys), spec.groups.count, -1)
    best = np.sort(by_group, axis=2)[:, :, ::-1]
    of_group = best[:, :, 0] if spec.groups.score == "max" else best[:, :, :2].sum(axis=2)
    chosen = np.argsort(-of_group, axis=1, kind="stable")[:, : spec.groups.chosen]
    is_open = np.zeros(of_group.shape, bool)
    np.put_along_axis(is_open, chosen, True, axis=1)
    by_group[~is_open] = -np.inf
    return keys


def weights(spec: RouterSpec, logits: F64, ids: I32, expert_scale: F32 | None = None) -> F64:
    """Return the weights of chosen experts int32 [T, K], float64 [T, K]."""
    if spec.softmax_over == "near":
        found = _among_rivals(spec.near, logits, ids)
    elif spec.softmax_over == "chosen":
        own = np.take_along_axis(logits, ids, axis=1)
        found = np.exp(own - own.max(axis=1, keepdims=True))
        found /= found.sum(axis=1, keepdims=True)
    else:
        found = np.take_along_axis(scores(spec, logits), ids, axis=1)
    if spec.normalise:
        total = np.maximum(found.sum(axis=1, keepdims=True), spec.norm_floor)
        found = found / (total + spec.norm_epsilon)
    found = found * spec.scale
    result: F64 = found if expert_scale is None else found * expert_scale[ids]
    return result


def _among_rivals(near: float, logits: F64, ids: I32) -> F64:
    """Sparsemixer's weights, float64 [T, K]: see 2 of `RouterSpec`."""
    found = np.empty(ids.shape)
    for t, row in enumerate(logits):
        left = np.ones(len(row), bool)
        for k in np.lexsort((ids[t], -row[ids[t]])):  # the greatest logit first, equal ones by number
            top = row[left].max()
            with np.errstate(invalid="ignore"):  # 0 of 0 is near
                rivals = left & ~((top - row) / np.maximum(np.abs(row), top) > near)
            found[t, k] = np.exp(row[ids[t, k]] - top) / np.exp(row[rivals] - top).sum()
            left[ids[t, k]] = False
    return found


def route(
    spec: RouterSpec,
    logits: F32,
    *,
    selection_bias: F32 | None = None,
    expert_scale: F32 | None = None,
    table_rows: I32 | None = None,
) -> tuple[I32, F64]:
    """Choose and weigh, heaviest first.

    Args:
        spec: the rule.
        logits: float32 [T, E], bias included.
        selection_bias: float32 [E].
        expert_scale: float32 [E].
        table_rows: int32 [T, K], the experts of each token at a hashed layer.

    Returns:
        Experts int32 [T, K] and weights float64 [T, K].
    """
    wide = logits.astype(np.float64)
    if table_rows is None:
        order = np.argsort(-compared(spec, wide, selection_bias), axis=1, kind="stable")
        table_rows = order[:, : spec.top_k].astype(np.int32)
    found = weights(spec, wide, table_rows, expert_scale)
    heaviest = np.argsort(-np.abs(found), axis=1, kind="stable")
    return np.take_along_axis(table_rows, heaviest, axis=1), np.take_along_axis(found, heaviest, axis=1)
