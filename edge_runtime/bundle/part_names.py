"""Names of a bundle's parts, and sizes that follow from them. docs/format.md section 2."""

from __future__ import annotations

from typing import Literal

from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.record import BF16

EMBEDDING = "trunk/embed.bin"
ROUTERS = "trunk/routers.bin"
"""The routers of all sparse layers, float32 [S, D, E]; bundles of earlier exporters have not got it."""


def expert_file(layer_idx: int, tier: int = 2) -> str:
    """Name of the expert file of a layer: the progressive one, or the bfloat16 one for tier 16."""
    return f"experts/layer_{layer_idx:03d}{'.bf16' if tier == BF16 else ''}.hbx"


def trunk_file(kind: Literal["layer", "shared", "head", "routers"], layer_idx: int = 0) -> str:
    """Name of a trunk graph; its weights lie beside it with `.data` in place of `.onnx`. `routers` has none."""
    return f"trunk/{kind}.onnx" if kind in ("head", "routers") else f"trunk/{kind}_{layer_idx:03d}.onnx"


def stacked_routers_bytes(spec: ModelSpec) -> int:
    """Bytes of the routers of all S sparse layers: float32 [S, D, E]."""
    return 4 * len(spec.sparse_layers) * spec.hidden * spec.num_experts


def data_file(graph: str) -> str:
    """Name of the file with a trunk graph's weights."""
    return graph[: -len(".onnx")] + ".data"
