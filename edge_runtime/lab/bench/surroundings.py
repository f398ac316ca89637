"""Collects what is true around a benchmark: versions, hardware, and where on the drive the experts lie."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.part_names import expert_file
from edge_runtime.lab.bench.result import RunConditions
from edge_runtime.telemetry.drive_probe import Extent
from edge_runtime.telemetry.hardware import describe_hardware

_PACKAGES = ("hobbit-edge", "onnxruntime", "numpy")


def describe(bundle: Bundle, isa: str, prompts: dict[str, Any], command: str) -> RunConditions:
    """Return what the report says about machine, versions and prompts."""
    versions = {"python": platform.python_version(), "kernels": isa}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return RunConditions(
        hardware=describe_hardware(bundle.path),
        versions=versions,
        prompts=prompts | {"bundle": bundle.path.resolve().name},
        measured_at=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ"),
        command=command,
    )


def record_extents(bundle: Bundle, tier: int) -> list[Extent]:
    """Return where each expert's record at a tier lies: what the runtime reads on a miss."""
    found: list[Extent] = []
    length = bundle.manifest.layout.tier_bytes(tier)
    for layer_idx in bundle.manifest.model.sparse_layers:
        header = bundle.expert_header(layer_idx, tier)
        path = bundle.path / expert_file(layer_idx, tier)
        found.extend(Extent(path, header.record_offset(expert), length) for expert in range(header.num_experts))
    return found
