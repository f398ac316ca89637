"""Write the parts of a bundle's trunk: one graph per layer, shared expert and head, and the embedding table.

Each function writes one part and returns its files, so that an exporter can stop and resume between parts. The same
weights give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_runtime.backends.cpu.trunk.signature import head_signature, layer_signature, shared_signature
from edge_runtime.backends.cpu.trunk.weight_source import TrunkWeights
from edge_runtime.base.arrays import F32, U16, U32
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.manifest import EmbeddingDtype
from edge_runtime.bundle.part_names import EMBEDDING, ROUTERS, trunk_file
from hobbit_export.trunk.blocks import mlp, rms_norm, scaled
from hobbit_export.trunk.data_file import DataFile
from hobbit_export.trunk.graph import Graph
from hobbit_export.trunk.layer import LayerGraph, router_scale
from hobbit_export.trunk.linear import BITS, LinearWriter, Matrix, Moments, Precision

DEFAULT_MEMORY_BYTES = 256 << 20
_COPIES_OF_ROWS = 4  # a router's rows as read, as float32, transposed, and as bytes


def build_layer(
    spec: ModelSpec,
    layer_idx: int,
    weights: TrunkWeights,
    out: Path,
    precision: Precision,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    moments: Moments | None = None,
) -> list[Path]:
    """Write the graph of a decoder layer into bundle directory `out` (docs/format.md section 4).

    Args:
        spec: the model.
        layer_idx: the layer.
        weights: dense weights by canonical name.
        out: the bundle; ``trunk/`` is created in it.
        precision: of the matrices; norms, biases and the router are always float32.
        memory_bytes: what reading and quantising a matrix may hold at a time.
        moments: of matrices' inputs by name, for int4 with error feedback.

    Returns:
        The files written: graph and data.
    """

    def emit(g: Graph, linear: LinearWriter) -> None:
        for name, dims in layer_signature(spec, layer_idx).inputs.items():
            g.input(name, dims)
        LayerGraph(spec, layer_idx, weights, g, linear).emit()

    return _build(out / trunk_file("layer", layer_idx), weights, precision, memory_bytes, emit, moments)


def build_shared(
    spec: ModelSpec,
    layer_idx: int,
    weights: TrunkWeights,
    out: Path,
    precision: Precision,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    moments: Moments | None = None,
) -> list[Path]:
    """Write the graph of a layer's shared expert or network in parallel. Arguments as for `build_layer`.

    It is a graph of its own so that it can run while reads of routed experts are in flight.
    """
    shared = spec.layers[layer_idx].shared
    if shared is None:
        raise ValueError(f"layer {layer_idx} has no shared expert")

    def emit(g: Graph, linear: LinearWriter) -> None:
        p, ((source, dims),) = f"layers.{layer_idx}.", shared_signature(spec, layer_idx).inputs.items()
        x = g.input(source, dims)
        if shared.parallel:
            x = rms_norm(g, x, g.vector(f"{p}shared_norm", weights.get(f"{p}shared_norm")), spec.rms_eps)
        y = mlp(linear, g, x, f"{p}shared", shared.mlp, spec.hidden)
        if shared.parallel:
            y = rms_norm(g, y, g.vector(f"{p}shared_out_norm", weights.get(f"{p}shared_out_norm")), spec.rms_eps)
        if shared.gate:
            name = f"{p}shared_expert_gate"
            gate = linear.product(x, Matrix(name, (name,), (1,), spec.hidden), exact=True)
            y = g.node("Mul", y, g.node("Sigmoid", gate))
        g.output(y, "y", (1, "T", spec.hidden))

    return _build(out / trunk_file("shared", layer_idx), weights, precision, memory_bytes, emit, moments)


def build_head(
    spec: ModelSpec,
    weights: TrunkWeights,
    out: Path,
    precision: Precision,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    moments: Moments | None = None,
) -> list[Path]:
    """Write the graph of the last combine, final norm and output head. Arguments as for `build_layer`."""

    def emit(g: Graph, linear: LinearWriter) -> None:
        for name, dims in head_signature(spec).inputs.items():
            g.input(name, dims)
        layer = LayerGraph(spec, spec.num_layers, weights, g, linear)
        _, x = layer.add_norm(layer.joined(), "final_norm")
        logits = linear.product(x, Matrix("head", ("head",), (spec.vocab_size,), spec.hidden))
        if spec.head_bias:
            logits = g.node("Add", logits, g.vector("head_bias", weights.get("head_bias")))
        logits = scaled(g, logits, spec.logit_scale)
        if (cap := spec.logit_softcap) is not None:
            logits = g.node("Mul", g.node("Tanh", g.node("Div", logits, g.scalar(cap))), g.scalar(cap))
        g.output(logits, "logits", (1, "T", spec.vocab_size))

    return _build(out / trunk_file("head"), weights, precision, memory_bytes, emit, moments)


def build_routers(
    spec: ModelSpec, weights: TrunkWeights, out: Path, memory_bytes: int = DEFAULT_MEMORY_BYTES
) -> list[Path]:
    """Write what looking ahead needs: the routers of all sparse layers in one block, and the graph that applies some.

    The graph has no weights: neighbouring layers' routers are handed to it, as many as are wanted.

    Args:
        spec: the model.
        weights: dense weights by canonical name.
        out: the bundle; ``trunk/`` is created in it.
        memory_bytes: what reading may hold at a time.

    Returns:
        The files written: graph and block.
    """
    path = out / trunk_file("routers")
    path.parent.mkdir(parents=True, exist_ok=True)
    g = Graph(path.stem)
    x = g.input("x", (1, "T", spec.hidden))
    routers = g.input("routers", ("P", spec.hidden, spec.num_experts))
    g.output(g.node("MatMul", x, routers), "router_logits", ("P", "T", spec.num_experts))
    g.save(path)
    step = max(1, memory_bytes // (4 * spec.hidden * _COPIES_OF_ROWS))
    with DataFile(out / ROUTERS) as data:
        for layer_idx in spec.sparse_layers:
            region = data.reserve(4 * spec.hidden * spec.num_experts)
            scale = router_scale(spec, layer_idx, weights)
            for start in range(0, spec.num_experts, step):
                rows = weights.rows(f"layers.{layer_idx}.router", start, min(start + step, spec.num_experts))
                rows = rows if scale is None else rows * scale
                data.write_columns(region, spec.num_experts, start, np.asarray(rows, "<f4").T)
    return [path, out / ROUTERS]


def write_embedding(
    spec: ModelSpec,
    weights: TrunkWeights,
    out: Path,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    dtype: EmbeddingDtype = "bf16",
) -> list[Path]:
    """Write the embedding table [V, D] as `dtype`, rounded to nearest even, and return its file."""
    path = out / EMBEDDING
    path.parent.mkdir(parents=True, exist_ok=True)
    step = max(1, memory_bytes // (spec.hidden * 32))
    with open(path, "wb") as file:
        for start in range(0, spec.vocab_size, step):
            rows = weights.rows("embed", start, min(start + step, spec.vocab_size))
            stored = to_bfloat16(rows) if dtype == "bf16" else rows.astype(f"<f{2 if dtype == 'fp16' else 4}")
            file.write(stored.tobytes())
    return [path]


def to_bfloat16(values: F32) -> U16:
    """Return float32 values rounded to the nearest bfloat16, ties to even, as their upper 16 bits."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    upper: U32 = np.where(np.isnan(values), quiet, rounded >> np.uint32(16))
    return upper.astype(np.uint16)


def _build(
    path: Path,
    weights: TrunkWeights,
    precision: Precision,
    memory_bytes: int,
    emit: Callable[[Graph, LinearWriter], None],
    moments: Moments | None,
) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    data_path = path.with_suffix(".data")
    with DataFile(data_path) as data:
        graph = Graph(path.stem, data, fused=precision in BITS)
        emit(graph, LinearWriter(graph, weights, precision, memory_bytes, moments))
        graph.save(path)
    return [path, data_path]
