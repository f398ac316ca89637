"""Hobbit Edge: run Mixture-of-Experts language models bigger than memory, experts streamed from the drive."""

from __future__ import annotations

TYPE_CHECKING = False  # importing it from typing would take a quarter of `hobbit --help`
if TYPE_CHECKING:
    from typing import Any

    from edge_runtime.base.errors import (
        BudgetError,
        BundleError,
        ConfigError,
        DeviceError,
        ExpertReadError,
        HobbitError,
        RequestError,
    )
    from edge_runtime.engine.api import Engine
    from edge_runtime.engine.continuation import Chunk
    from edge_runtime.engine.sampler import SamplingParams
    from edge_runtime.telemetry.report import RunReport

_HOMES = {
    "Engine": "engine.api",
    "SamplingParams": "engine.sampler",
    "Chunk": "engine.continuation",
    "RunReport": "telemetry.report",
    **dict.fromkeys(
        ("BudgetError", "BundleError", "ConfigError", "DeviceError", "ExpertReadError", "HobbitError", "RequestError"),
        "base.errors",
    ),
}

__all__ = [
    "BudgetError",
    "BundleError",
    "Chunk",
    "ConfigError",
    "DeviceError",
    "Engine",
    "ExpertReadError",
    "HobbitError",
    "RequestError",
    "RunReport",
    "SamplingParams",
]


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `hobbit --help` needs none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edge_runtime' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"edge_runtime.{_HOMES[name]}"), name)
