"""Write the parts of a bundle's trunk: one graph per layer, shared expert and head, and the embedding table.

Each function writes one part and returns its files, so that an exporter can stop and resume between parts. The same
weights give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cpu.trunk.signature import layer_signature
from edge_runtime.backends.cpu.trunk.weights import TrunkWeights
from edge_runtime.base.spec import LayerSpec, ModelSpec, mixer_kind
from edge_runtime.bundle.manifest import EmbeddingDtype
from edge_runtime.bundle.part_names import EMBEDDING, ROUTERS, trunk_file
from hobbit_export.trunk.attention import EMITTERS
from hobbit_export.trunk.attention.context import Emission
from hobbit_export.trunk.blocks import add_norm, mlp, scaled
from hobbit_export.trunk.data_file import DataFile
from hobbit_export.trunk.graph import Graph
from hobbit_export.trunk.linear import BITS, LinearWriter, Matrix, Precision

DEFAULT_MEMORY_BYTES = 256 << 20
_COPIES_OF_ROWS = 4  # a router's rows as read, as float32, transposed, and as bytes


def build_layer(
    spec: ModelSpec,
    layer_idx: int,
    weights: TrunkWeights,
    out: Path,
    precision: Precision,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> list[Path]:
    """Write the graph of a decoder layer into bundle directory `out` (docs/format.md section 4).

    Args:
        spec: the model.
        layer_idx: the layer.
        weights: dense weights by canonical name.
        out: the bundle; ``trunk/`` is created in it.
        precision: of the matrices; norms, biases and the router are always float32.
        memory_bytes: what reading and quantising a matrix may hold at a time.

    Returns:
        The files written: graph and data.
    """

    def emit(g: Graph, linear: LinearWriter) -> None:
        layer, signature, d = spec.layers[layer_idx], layer_signature(spec, layer_idx), spec.hidden
        p, new = f"layers.{layer_idx}.", dict[str, str]()
        for name, dims in signature.inputs.items():
            g.input(name, dims)
        norms = {name: _norm_weights(g, spec, weights, f"{p}{name}") for name in _norms(layer)}
        to_add = ("resid", scaled(g, "moe", spec.residual_scale))
        if layer.attention is not None:
            resid, normed = add_norm(g, *to_add, norms["attn_norm"], spec.rms_eps)
            emission = Emission(layer.attention, d, spec.rms_eps, p, weights, g, linear)
            attended, new = EMITTERS[mixer_kind(layer.attention)](emission, normed)
            to_add = (resid, scaled(g, attended, spec.residual_scale))
        if layer.has_feed_forward:
            resid, x = add_norm(g, *to_add, norms["ffn_norm"], spec.rms_eps)
        else:
            resid = g.node("Add", *to_add)
        if layer.sparse:
            router = Matrix(f"{p}router", (f"{p}router",), (spec.num_experts,), d)
            x = g.output(x, "x", signature.outputs["x"])
            g.output(linear.product(x, router, exact=True), "router_logits", signature.outputs["router_logits"])
        elif layer.dense is not None:
            dense = mlp(linear, g, x, f"{p}dense", layer.dense, d)
            resid = g.node("Add", resid, scaled(g, dense, spec.residual_scale))
        for name, value in {"resid_out": resid, **{f"new_{name}": value for name, value in new.items()}}.items():
            g.output(value, name, signature.outputs[name])

    return _build(out / trunk_file("layer", layer_idx), weights, precision, memory_bytes, emit)


def build_shared(
    spec: ModelSpec,
    layer_idx: int,
    weights: TrunkWeights,
    out: Path,
    precision: Precision,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> list[Path]:
    """Write the graph of a layer's shared expert, its sigmoid gate applied. Arguments as for `build_layer`.

    It is a graph of its own so that it can run while reads of routed experts are in flight.
    """
    shared = spec.layers[layer_idx].shared
    if shared is None:
        raise ValueError(f"layer {layer_idx} has no shared expert")

    def emit(g: Graph, linear: LinearWriter) -> None:
        p = f"layers.{layer_idx}."
        x = g.input("x", (1, "T", spec.hidden))
        y = mlp(linear, g, x, f"{p}shared", shared.mlp, spec.hidden)
        if shared.gate:
            name = f"{p}shared_expert_gate"
            gate = linear.product(x, Matrix(name, (name,), (1,), spec.hidden), exact=True)
            y = g.node("Mul", y, g.node("Sigmoid", gate))
        g.output(y, "y", (1, "T", spec.hidden))

    return _build(out / trunk_file("shared", layer_idx), weights, precision, memory_bytes, emit)


def build_head(
    spec: ModelSpec,
    weights: TrunkWeights,
    out: Path,
    precision: Precision,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> list[Path]:
    """Write the graph of the last combine, final norm and output head. Arguments as for `build_layer`."""

    def emit(g: Graph, linear: LinearWriter) -> None:
        resid, expert_out = g.input("resid", (1, "T", spec.hidden)), g.input("moe", (1, "T", spec.hidden))
        expert_out = scaled(g, expert_out, spec.residual_scale)
        _, x = add_norm(g, resid, expert_out, _norm_weights(g, spec, weights, "final_norm"), spec.rms_eps)
        logits = linear.product(x, Matrix("head", ("head",), (spec.vocab_size,), spec.hidden))
        if spec.head_bias:
            logits = g.node("Add", logits, g.vector("head_bias", weights.get("head_bias")))
        logits = scaled(g, logits, spec.logit_scale)
        if (cap := spec.logit_softcap) is not None:
            logits = g.node("Mul", g.node("Tanh", g.node("Div", logits, g.scalar(cap))), g.scalar(cap))
        g.output(logits, "logits", (1, "T", spec.vocab_size))

    return _build(out / trunk_file("head"), weights, precision, memory_bytes, emit)


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
            for start in range(0, spec.num_experts, step):
                rows = weights.rows(f"layers.{layer_idx}.router", start, min(start + step, spec.num_experts))
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


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return float32 values rounded to the nearest bfloat16, ties to even, as their upper 16 bits."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    upper: NDArray[np.uint32] = np.where(np.isnan(values), quiet, rounded >> np.uint32(16))
    return upper.astype(np.uint16)


def _norms(layer: LayerSpec) -> list[str]:
    has = {"attn_norm": layer.attention is not None, "ffn_norm": layer.has_feed_forward}
    return [name for name, is_there in has.items() if is_there]


def _norm_weights(g: Graph, spec: ModelSpec, weights: TrunkWeights, name: str) -> tuple[str, ...]:
    """Store the weights of a norm of the residual stream: a gamma, and a bias where the model's norm has one."""
    names = (name,) if spec.norm == "rms" else (name, f"{name}_bias")
    return tuple(g.vector(each, weights.get(each)) for each in names)


def _build(
    path: Path,
    weights: TrunkWeights,
    precision: Precision,
    memory_bytes: int,
    emit: Callable[[Graph, LinearWriter], None],
) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    data_path = path.with_suffix(".data")
    with DataFile(data_path) as data:
        graph = Graph(path.stem, data, fused=precision in BITS)
        emit(graph, LinearWriter(graph, weights, precision, memory_bytes))
        graph.save(path)
    return [path, data_path]
