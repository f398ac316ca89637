"""What an export will write: the size of every part, before anything is written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edge_runtime.backends.cpu.trunk.weights import layer_weight_shapes
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.expert_file import header_bytes
from edge_runtime.bundle.part_names import EMBEDDING, ROUTERS, expert_file, stacked_routers_bytes, trunk_file
from edge_runtime.bundle.record import BF16, record_layout
from edge_runtime.bundle.router_data import router_parts
from edge_runtime.bundle.tokenizer_file import check_tokenizer
from hobbit_export.ceiling import json_bytes, need_memory
from hobbit_export.options import ExportOptions
from hobbit_export.reference import num_reference_tokens
from hobbit_export.source import SourceModel
from hobbit_export.tokenizer_files import REQUIRED, TokenizerFile

_GRAPH_BYTES = 12 << 10
_EXACT = ("router", "shared_expert_gate", "linear_a", "linear_b")
"""Matrices kept in float32 at every trunk precision."""


@dataclass(frozen=True)
class ExpectedPart:
    """A part to come. Sizes of experts, embedding and router data are exact, of the trunk nearly so, else bounds."""

    name: str
    kind: str
    bytes: int


def expected_parts(source: SourceModel, options: ExportOptions) -> list[ExpectedPart]:
    """Every file of the bundle but the manifest, with its size.

    Raises:
        BundleError: the runtime would refuse the tokenizer.
        BudgetError: the tokenizer might not fit under the ceiling.
    """
    return [*tokenizer_parts(source.tokenizer(), source.spec), *parts_of_model(source, options)]


def tokenizer_parts(files: list[TokenizerFile], spec: ModelSpec) -> list[ExpectedPart]:
    """Check a tokenizer, and return its parts. Errors are those of `expected_parts`."""
    raw = next(file for file in files if file.name == REQUIRED).read()
    need_memory(json_bytes(raw), REQUIRED)
    check_tokenizer(raw, spec.vocab_size)
    return [ExpectedPart(file.in_bundle, "tokenizer", file.num_bytes) for file in files]


def parts_of_model(source: SourceModel, options: ExportOptions) -> list[ExpectedPart]:
    """Every file of the bundle but the manifest and those of the tokenizer, with its size."""
    return [
        *trunk_parts(source.spec, options.first_trunk, source.embedding_bytes),
        *(ExpectedPart(name, "router", size) for name, size in router_parts(source.spec).items()),
        *_expert_parts(source.spec, options),
        *_calibration_parts(source, options),
    ]


def totals(parts: list[ExpectedPart]) -> dict[str, int]:
    """Bytes by kind, and `total`."""
    result: dict[str, int] = {}
    for part in parts:
        result[part.kind] = result.get(part.kind, 0) + part.bytes
    return result | {"total": sum(p.bytes for p in parts)}


def weight_bytes(shape: tuple[int, ...], precision: str, *, exact: bool = False) -> int:
    """Bytes of one trunk tensor at a precision; what is no matrix is always float32."""
    if precision == "fp32" or len(shape) != 2 or exact:
        return 4 * math.prod(shape)
    from hobbit_export.trunk.linear import BITS
    from hobbit_export.trunk.quantize import block_size_for

    rows, inputs = shape
    block = block_size_for(inputs)
    return rows * -(-inputs // block) * (block * BITS["int8" if precision == "int8" else "int4"] // 8 + 4)


def trunk_parts(spec: ModelSpec, precision: str, embedding_bytes: int = 0) -> Iterator[ExpectedPart]:
    """Yield the parts of a trunk at a precision; the size of the embedding table is that of the checkpoint's."""
    yield ExpectedPart(EMBEDDING, "embedding", embedding_bytes)
    head = 4 * (spec.hidden + spec.head_bias * spec.vocab_size) + weight_bytes(
        (spec.vocab_size, spec.hidden), precision
    )
    yield ExpectedPart(trunk_file("head"), "trunk", head + _GRAPH_BYTES)
    yield ExpectedPart(trunk_file("routers"), "trunk", _GRAPH_BYTES)
    yield ExpectedPart(ROUTERS, "trunk", stacked_routers_bytes(spec))
    for layer_idx, layer in enumerate(spec.layers):
        sizes = {"layer": 0, "shared": 0}
        for canonical, shape in layer_weight_shapes(spec, layer_idx).items():
            name = canonical.rsplit(".", 1)[1]
            sizes["shared" if name.startswith("shared") else "layer"] += weight_bytes(
                shape, precision, exact=name in _EXACT
            )
        yield ExpectedPart(trunk_file("layer", layer_idx), "trunk", sizes["layer"] + _GRAPH_BYTES)
        if layer.shared is not None:
            yield ExpectedPart(trunk_file("shared", layer_idx), "trunk", sizes["shared"] + _GRAPH_BYTES)


def _expert_parts(spec: ModelSpec, options: ExportOptions) -> Iterator[ExpectedPart]:
    layout = record_layout(spec, options.num_segments)
    for layer_idx in spec.sparse_layers:
        size = header_bytes(spec.num_experts, options.num_segments) + spec.num_experts * layout.record_bytes
        yield ExpectedPart(expert_file(layer_idx), "experts", size)
        if options.with_bf16:
            size = header_bytes(spec.num_experts, 1) + spec.num_experts * layout.bf16_bytes
            yield ExpectedPart(expert_file(layer_idx, BF16), "experts_bf16", size)


def _calibration_parts(source: SourceModel, options: ExportOptions) -> Iterator[ExpectedPart]:
    spec = source.spec
    numbers = len(spec.sparse_layers) * spec.num_experts * (2 * options.num_segments + 4)
    yield ExpectedPart("calibration/experts.json", "calibration", 4096 + 16 * numbers)
    kinds = 1 if spec.longest_alike is None else 2
    logits = num_reference_tokens(source) * (4 * spec.vocab_size * kinds + 4)
    yield ExpectedPart("calibration/reference.npz", "calibration", 1024 + logits)


def describe(parts: list[ExpectedPart], spec: ModelSpec, options: ExportOptions) -> dict[str, Any]:
    """Plan as plain data for `--json`."""
    layout = record_layout(spec, options.num_segments)
    return {
        "parts": [{"name": p.name, "kind": p.kind, "bytes": p.bytes} for p in parts],
        "bytes": totals(parts),
        "expert_bytes_by_tier": {str(t): layout.tier_bytes(t) for t in options.tiers},
        "num_experts_in_all": len(spec.sparse_layers) * spec.num_experts,
    }
