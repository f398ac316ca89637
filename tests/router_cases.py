"""Routers of every kind a model may describe, with random numbers where the rule has some."""

from __future__ import annotations

import numpy as np

from edge_runtime.base.spec import GroupSpec, RouterSpec
from edge_runtime.bundle.router_data import RouterData

E, K, VOCABULARY = 24, 5, 40
RULES: dict[str, RouterSpec] = {
    "softmax": RouterSpec(E, K),
    "softmax, normalised": RouterSpec(E, K, normalise=True),
    "softmax, normalised and scaled": RouterSpec(E, K, normalise=True, scale=2.5),
    "softmax over the chosen": RouterSpec(E, K, softmax_over="chosen", logit_bias=True),
    "softmax over the chosen, biased choice": RouterSpec(E, K, softmax_over="chosen", selection_bias=True),
    "sparsemixer": RouterSpec(E, K, softmax_over="near", near=0.4),
    "sparsemixer, none but equals": RouterSpec(E, K, softmax_over="near", expert_scale=True, logit_bias=True),
    "softmax, biased choice": RouterSpec(E, K, selection_bias=True, normalise=True),
    "softmax, biased choice, epsilon": RouterSpec(E, K, selection_bias=True, normalise=True, norm_epsilon=1e-6),
    "softmax, biased choice, floor": RouterSpec(E, K, selection_bias=True, normalise=True, norm_floor=0.5),
    "softmax, best of groups": RouterSpec(E, K, groups=GroupSpec(6, 2), scale=16.0),
    "softmax, scaled experts": RouterSpec(E, K, normalise=True, expert_scale=True),
    "sigmoid": RouterSpec(E, K, "sigmoid"),
    "sigmoid, normalised": RouterSpec(E, K, "sigmoid", normalise=True, norm_epsilon=1e-20),
    "sigmoid, two best of groups": RouterSpec(
        E, K, "sigmoid", normalise=True, selection_bias=True, groups=GroupSpec(4, 2, "top2_sum"), scale=2.446
    ),
    "sigmoid, groups of one": RouterSpec(E, K, "sigmoid", groups=GroupSpec(E, 7)),
    "sqrt softplus": RouterSpec(E, K, "sqrt_softplus", normalise=True, selection_bias=True, scale=1.5),
    "sqrt softplus, hashed": RouterSpec(E, K, "sqrt_softplus", normalise=True, hashed_layers=1, expert_scale=True),
}


def data_for(spec: RouterSpec, num_layers: int, seed: int = 0, vocabulary: int = VOCABULARY) -> RouterData:
    """Random numbers for a rule."""
    rng = np.random.default_rng(seed)
    shape = (num_layers, spec.num_experts)

    def numbers(wanted: bool, low: float, high: float) -> np.ndarray | None:
        return rng.uniform(low, high, shape).astype(np.float32) if wanted else None

    table = None
    if spec.hashed_layers:
        rows = [rng.permutation(spec.num_experts)[: spec.top_k] for _ in range(spec.hashed_layers * vocabulary)]
        table = np.array(rows, np.int32).reshape(spec.hashed_layers, vocabulary, spec.top_k)
    return RouterData(
        numbers(spec.logit_bias, -1, 1),
        numbers(spec.selection_bias, -0.3, 0.3),
        numbers(spec.expert_scale, 0.5, 2),
        table,
    )
