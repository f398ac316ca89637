"""Where the weights of a layer, a shared expert and the head lie on the GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from edge_runtime.backends.cpu.trunk.signature import Signature, head_signature, layer_signature, shared_signature
from edge_runtime.backends.cuda.driver import Stream
from edge_runtime.backends.cuda.trunk.graph_weights import GraphWeights
from edge_runtime.backends.cuda.trunk.launches import DeviceMatrix
from edge_runtime.backends.cuda.trunk.mixers import mixer_of
from edge_runtime.backends.cuda.trunk.widths import is_joined
from edge_runtime.base.spec import MlpSpec, ModelSpec
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.part_names import trunk_file


@dataclass(frozen=True)
class MlpWeights:
    """A dense network: `up` holds gate and up one above the other where it is gated."""

    up: DeviceMatrix
    down: DeviceMatrix


class NormWeights(NamedTuple):
    """Addresses of a norm's weight float32 [D], and of the bias of a LayerNorm or 0."""

    weight: int
    bias: int = 0


@dataclass(frozen=True)
class JoinWeights:
    """How a part's output joins the residual stream, beyond being added; addresses, 0 where there is nothing.

    Attributes:
        own: norm of the experts beside a network in parallel, float32 [D].
        joint: norm of all that is added, float32 [D].
        by: what the residual stream is multiplied by, float32 [1].
    """

    own: int = 0
    joint: int = 0
    by: int = 0


@dataclass(frozen=True)
class LayerWeights:
    """A layer.

    Attributes:
        before: how the experts of the layer before join; None: they are added.
        attn_norm: of what attention reads; None without one.
        mixer: weights of its kind of attention; None without one.
        attn_join: how its output joins; None: it is added.
        ffn_norm: of what experts or a dense network read; None without.
        router_ones: ones [D], weight of the norm a router reads; 0: it reads what experts do.
        router: of a sparse layer.
        dense: of another.
        ffn_join: how a dense network's output joins; None: it is added.
    """

    before: JoinWeights | None
    attn_norm: NormWeights | None
    mixer: Any
    attn_join: JoinWeights | None
    ffn_norm: NormWeights | None
    router_ones: int
    router: DeviceMatrix | None
    dense: MlpWeights | None
    ffn_join: JoinWeights | None


@dataclass(frozen=True)
class SharedWeights:
    """A shared expert, with the matrix [1, D] of its gate; or a network in parallel, with norms before and behind it.

    Norms are addresses, 0 where there are none.
    """

    mlp: MlpWeights
    gate: DeviceMatrix | None
    norm: int
    out_norm: int


@dataclass(frozen=True)
class HeadWeights:
    """How the last experts join, the last norm, and the output matrix with its bias."""

    before: JoinWeights | None
    norm: NormWeights
    matrix: DeviceMatrix


class DeviceWeights:
    """All dense weights of a bundle but the embedding, on the GPU.

    Args:
        bundle: an open bundle whose parts were checked.
        stream: orders the copies.

    Attributes:
        layers: by index.
        shared: by the layer's index.
        head: the head.
        nbytes: of all of them.

    Raises:
        BundleError: a graph is not of the exporter's kind.
        CudaMemoryError: they do not fit.
    """

    def __init__(self, bundle: Bundle, stream: Stream) -> None:
        spec = bundle.manifest.model
        self._bundle, self._stream, self._graphs = bundle, stream, list[GraphWeights]()
        try:
            self.layers = [self._layer(spec, i) for i in range(spec.num_layers)]
            shared = (i for i, layer in enumerate(spec.layers) if layer.shared is not None)
            self.shared = {i: self._shared(spec, i) for i in shared}
            self.head = self._head(spec)
            stream.synchronize()
        except BaseException:
            self.close()
            raise
        self.nbytes = sum(graph.nbytes for graph in self._graphs)

    def close(self) -> None:
        """Give the memory back. Safe to call twice."""
        for graph in self._graphs:
            graph.close()
        self._graphs.clear()

    def _layer(self, spec: ModelSpec, i: int) -> LayerWeights:
        g = self._graph(trunk_file("layer", i), layer_signature(spec, i))
        layer, p, d = spec.layers[i], f"layers.{i}.", spec.hidden
        attention, dense, scaled = layer.attention, layer.dense, is_joined(spec, layer)
        own_router = layer.sparse and spec.router.norm_scale is not None
        return LayerWeights(
            before=_before(g, spec, i),
            attn_norm=None if attention is None else _norm(g, spec, f"{p}attn_norm"),
            mixer=None if attention is None else mixer_of(attention).load(g, p, attention, d),
            attn_join=_join(g, spec, i, "attn_out_norm", last=not layer.has_feed_forward) if scaled else None,
            ffn_norm=_norm(g, spec, f"{p}ffn_norm") if layer.has_feed_forward else None,
            router_ones=g.vector(f"{p}router_ones", d) if own_router else 0,
            router=g.matrix(f"{p}router", spec.num_experts, d) if layer.sparse else None,
            dense=None if dense is None else _mlp(g, f"{p}dense", dense, d),
            ffn_join=_join(g, spec, i, "ffn_out_norm", last=True) if scaled and dense is not None else None,
        )

    def _shared(self, spec: ModelSpec, i: int) -> SharedWeights:
        g = self._graph(trunk_file("shared", i), shared_signature(spec, i))
        shared, p, d = spec.layers[i].shared, f"layers.{i}.", spec.hidden
        assert shared is not None
        norms = [g.vector(f"{p}{name}", d) if shared.parallel else 0 for name in ("shared_norm", "shared_out_norm")]
        gate = g.matrix(f"{p}shared_expert_gate", 1, d) if shared.gate else None
        return SharedWeights(_mlp(g, f"{p}shared", shared.mlp, d), gate, *norms)

    def _head(self, spec: ModelSpec) -> HeadWeights:
        g = self._graph(trunk_file("head"), head_signature(spec))
        matrix = g.matrix("head", spec.vocab_size, spec.hidden, bias="head_bias" if spec.head_bias else "")
        return HeadWeights(_before(g, spec, spec.num_layers), _norm(g, spec, "final_norm"), matrix)

    def _graph(self, part: str, signature: Signature) -> GraphWeights:
        g = GraphWeights(self._bundle, part, signature, self._stream)
        self._graphs.append(g)
        return g


def _norm(g: GraphWeights, spec: ModelSpec, name: str) -> NormWeights:
    bias = g.vector(f"{name}_bias", spec.hidden) if spec.norm == "layer" else 0
    return NormWeights(g.vector(name, spec.hidden), bias)


def _before(g: GraphWeights, spec: ModelSpec, layer_idx: int) -> JoinWeights | None:
    """Return how the experts of the layer before one join; its graph has those weights."""
    i = layer_idx - 1
    if i < 0 or not spec.layers[i].sparse or not (is_joined(spec, spec.layers[i]) or spec.is_parallel(i)):
        return None
    join = _join(g, spec, i, "ffn_out_norm", last=True)
    own = g.vector(f"layers.{i}.experts_out_norm", spec.hidden) if spec.is_parallel(i) else 0
    return replace(join, own=own)


def _join(g: GraphWeights, spec: ModelSpec, layer_idx: int, name: str, *, last: bool) -> JoinWeights:
    """Return how a part of a layer joins; behind the last one the residual stream is scaled."""
    layer, p = spec.layers[layer_idx], f"layers.{layer_idx}."
    joint = g.vector(f"{p}{name}", spec.hidden) if layer.output_norms else 0
    return JoinWeights(joint=joint, by=g.vector(f"{p}layer_scale", 1) if layer.scaled and last else 0)


def _mlp(g: GraphWeights, prefix: str, mlp: MlpSpec, hidden: int) -> MlpWeights:
    rows = 2 * mlp.intermediate if mlp.gated else mlp.intermediate
    up = g.matrix(f"{prefix}_gate_up" if mlp.gated else f"{prefix}_up", rows, hidden)
    return MlpWeights(up, g.matrix(f"{prefix}_down", hidden, mlp.intermediate))
