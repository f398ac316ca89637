"""Passes whose layers a backend routes and computes by itself, because every expert is in memory."""

from __future__ import annotations

from typing import Any

from edge_runtime.backends.kernels import ExpertKernels, Resident
from edge_runtime.engine.pass_parts import PassParts
from edge_runtime.experts.residents import Residents
from edge_runtime.policy.joint import PassPolicies


def layers_of_backend(
    parts: PassParts[Any], kernels: ExpertKernels[Any], policies: PassPolicies
) -> list[Resident] | None:
    """Where experts are, if the backend may choose among them in this pass; else None, and the host decides."""
    router = kernels.resident_router
    if router is None or parts.router.needs_tokens or not policies.follows_router:
        return None
    router.take_uses()  # what a failed pass left
    return parts.cache.pool.permanent_places()


def count_uses(kernels: ExpertKernels[Any], residents: Residents) -> None:
    """Count what the backend chose, as if each layer had asked for it."""
    router = kernels.resident_router
    if router is not None:
        for layer_idx, experts in router.take_uses():
            residents.count_hits(layer_idx, experts)
