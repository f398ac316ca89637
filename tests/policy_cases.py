"""Routing, residency and contexts for tests of policies."""

from __future__ import annotations

import numpy as np

from edge_runtime.base.spec import RouterSpec
from edge_runtime.policy.base import PolicyContext, Routing
from edge_runtime.policy.routing import Router

TIER_BYTES = {2: 30, 4: 50, 6: 70, 8: 90}


def context(
    num_layers: int = 4, num_experts: int = 8, top_k: int = 4, norm_topk_prob: bool = True, **changes
) -> PolicyContext:
    """For a softmax router, unless one is given."""
    router = changes.pop("router", None)
    if router is None:
        router = Router(RouterSpec(num_experts, top_k, normalise=norm_topk_prob), range(num_layers))
    return PolicyContext(num_layers, router, **({"tier": 8, "tier_bytes": TIER_BYTES} | changes))


def route(logits: np.ndarray, top_k: int, *, norm_topk_prob: bool) -> Routing:
    """What a softmax router chooses."""
    return Router(RouterSpec(logits.shape[1], top_k, normalise=norm_topk_prob), [0]).route(0, logits)


class Residents:
    """A `ResidencyView` from a dict: expert -> tier."""

    def __init__(self, num_experts: int = 8, /, **tiers: int) -> None:
        self.tiers = np.zeros(num_experts, np.uint8)
        for name, tier in tiers.items():
            self.tiers[int(name[1:])] = tier

    def resident_tiers(self, layer_idx: int) -> np.ndarray:
        return self.tiers


def routed(*weights: float, num_experts: int = 8, top_k: int | None = None, norm: bool = True) -> Routing:
    """One token whose router gives expert i probability weights[i] (the rest next to nothing)."""
    rest = [1e-9] * (num_experts - len(weights))
    logits = np.log(np.array([[*weights, *rest]], np.float32))
    return route(logits.astype(np.float32), top_k or len(weights), norm_topk_prob=norm)


NEUTRAL = {
    "lossless": "lossless",
    "hobbit": "hobbit:t1=1,t2=1",
    "mobile": "mobile:k=4",
    "cache-prior": "cache-prior:lambda=0",
    "max-rank": "max-rank:m=4",
    "cumsum": "cumsum:p=0",
    "adapmoe": "adapmoe:tau=0",
    "smoe": "smoe:alpha=0",
    "skip": "skip:beta=0",
    "lexi": "lexi:k=4",
    "edgemoe": "edgemoe:bits=8",
    "mcsharp": "mcsharp:bits=8,prune=0",
    "rate-distortion": "rate-distortion:max_kld=0",
}
"""Each policy's parameters that change nothing, for a model with K = 4."""
