"""The router rule every supported family shares: softmax over all experts, top-k, renormalised if the model does so."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cpu.kernels import route as choose
from edge_runtime.policy.base import Routing


def route(logits: NDArray[np.float32], top_k: int, *, norm_topk_prob: bool) -> Routing:
    """Choose experts as the model would.

    Args:
        logits: float32 [T, E], contiguous.
        top_k: K, at most E.
        norm_topk_prob: divide the K weights by their sum (mixtral always; qwen and olmoe as configured).

    Returns:
        Experts best first; equal probabilities go to the lower index. A token with a logit that is not finite gets
        weights that are no numbers, so that the damage shows.
    """
    ids = np.empty((len(logits), top_k), np.int32)
    weights = np.empty((len(logits), top_k), np.float32)
    choose(logits, ids, weights, norm_topk_prob)
    return Routing(logits, ids, weights)
