"""The router rule every supported family shares: softmax over all experts, top-k, renormalised if the model does so."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.policy.base import Routing


def route(logits: NDArray[np.float32], top_k: int, *, norm_topk_prob: bool) -> Routing:
    """Choose experts as the model would.

    Args:
        logits: float32 [T, E].
        top_k: K, at most E.
        norm_topk_prob: divide the K weights by their sum (mixtral always; qwen and olmoe as configured).

    Returns:
        Experts best first; equal probabilities go to the lower index.
    """
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    ids = np.argsort(-logits, axis=1, kind="stable")[:, :top_k].astype(np.int32)
    weights = np.take_along_axis(shifted, ids, axis=1)
    total = weights.sum(axis=1, keepdims=True) if norm_topk_prob else shifted.sum(axis=1, keepdims=True)
    return Routing(logits, ids, weights / total)
