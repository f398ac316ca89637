"""Builds predictors by name for a model, and says beforehand what memory they take."""

from __future__ import annotations

from collections.abc import Callable

from edge_runtime.backends.base import MemoryFormulas, Tensor
from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import ModelSpec
from edge_runtime.policy.routing import Router
from edge_runtime.prefetch import parse_prefetch
from edge_runtime.prefetch.expert_map import ExpertMapMatching, map_store_bytes
from edge_runtime.prefetch.lookahead import LookAhead, Stacked
from edge_runtime.prefetch.prefetcher import Predictor
from edge_runtime.prefetch.statistical import StatisticalPreload, counts_bytes


def looks_ahead(text: str) -> bool:
    """Whether the predictor that ``name:param=value,...`` asks for needs `Trunk.look_ahead`."""
    return parse_prefetch(text)[0] == "lookahead"


def create_predictor(
    text: str, trunk: Stacked, spec: ModelSpec, router: Router, to_host: Callable[[Tensor], F32]
) -> Predictor | None:
    """Build the predictor that ``name:param=value,...`` asks for; None for `off`.

    Args:
        text: name and parameters.
        trunk: applies routers, for those that look ahead.
        spec: the model.
        router: of the model.
        to_host: gives the numbers of a backend's tensor.

    Raises:
        ConfigError: see `parse_prefetch`.
    """
    name, params = parse_prefetch(text)
    if name == "lookahead":
        return LookAhead(trunk, router, depth=params["depth"])
    if name == "expert-map":
        return ExpertMapMatching(router, spec.hidden, to_host, depth=params["depth"], capacity=params["capacity"])
    if name == "statistical":
        return StatisticalPreload(router, memory=params["memory"])
    return None


def predictor_bytes(text: str, spec: ModelSpec, formulas: MemoryFormulas) -> int:
    """Memory of the predictor that ``name:param=value,...`` asks for, under a backend with these formulas."""
    name, params = parse_prefetch(text)
    layers = len(spec.sparse_layers)
    if name == "lookahead":
        return formulas.look_ahead_bytes(spec)
    if name == "expert-map":
        return map_store_bytes(layers, spec.num_experts, spec.hidden, params["capacity"])
    return counts_bytes(layers, spec.num_experts) if name == "statistical" else 0
