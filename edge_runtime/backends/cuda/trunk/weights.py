"""Where the weights of a layer, a shared expert and the head lie on the GPU."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.backends.cpu.trunk.signature import head_signature, layer_signature, shared_signature
from edge_runtime.backends.cuda.driver import Stream
from edge_runtime.backends.cuda.trunk.graph_weights import GraphWeights
from edge_runtime.backends.cuda.trunk.launches import DeviceMatrix
from edge_runtime.base.spec import MlpSpec, ModelSpec, SoftmaxAttention
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.part_names import trunk_file


@dataclass(frozen=True)
class MlpWeights:
    """A dense network: `up` holds gate and up one above the other where it is gated."""

    up: DeviceMatrix
    down: DeviceMatrix


@dataclass(frozen=True)
class LayerWeights:
    """A layer. Norms and sinks are addresses, 0 where there are none.

    Attributes:
        attn_norm: float32 [D].
        qkv: queries, keys and values of a token.
        full_norms: of all queries and of all keys.
        head_norms: of each query and key head, float32 [H + G, C].
        sinks: float32 [H].
        o: output of the attention.
        ffn_norm: float32 [D].
        router: of a sparse layer.
        dense: of another.
    """

    attn_norm: int
    qkv: DeviceMatrix
    full_norms: tuple[int, int]
    head_norms: int
    sinks: int
    o: DeviceMatrix
    ffn_norm: int
    router: DeviceMatrix | None
    dense: MlpWeights | None


@dataclass(frozen=True)
class SharedWeights:
    """A shared expert and the matrix [1, D] of its gate, if it has one."""

    mlp: MlpWeights
    gate: DeviceMatrix | None


@dataclass(frozen=True)
class HeadWeights:
    """The last norm and the output matrix."""

    norm: int
    matrix: DeviceMatrix


class TrunkWeights:
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
        g = GraphWeights(self._bundle, trunk_file("layer", i), layer_signature(spec, i), self._stream)
        self._graphs.append(g)
        layer, p, d = spec.layers[i], f"layers.{i}.", spec.hidden
        s = layer.attention
        assert isinstance(s, SoftmaxAttention)
        q, k = s.num_heads * s.head_dim, s.num_kv_heads * s.head_dim
        full, by_head = s.qk_norm == "full", s.qk_norm == "per_head"
        return LayerWeights(
            attn_norm=g.vector(f"{p}attn_norm", d),
            qkv=g.matrix(f"{p}qkv", q + 2 * k, d, bias=f"{p}qkv_bias" if s.qkv_bias else ""),
            full_norms=(g.vector(f"{p}q_norm", q), g.vector(f"{p}k_norm", k)) if full else (0, 0),
            head_norms=g.vector(f"{p}qk_norm", q + k) if by_head else 0,
            sinks=g.vector(f"{p}sinks", s.num_heads) if s.sinks else 0,
            o=g.matrix(f"{p}o", d, q, bias=f"{p}o_bias" if s.o_bias else ""),
            ffn_norm=g.vector(f"{p}ffn_norm", d),
            router=g.matrix(f"{p}router", spec.num_experts, d) if layer.sparse else None,
            dense=None if layer.dense is None else _mlp(g, f"{p}dense", layer.dense, d),
        )

    def _shared(self, spec: ModelSpec, i: int) -> SharedWeights:
        g = GraphWeights(self._bundle, trunk_file("shared", i), shared_signature(spec, i), self._stream)
        self._graphs.append(g)
        shared = spec.layers[i].shared
        assert shared is not None
        gate = g.matrix(f"layers.{i}.shared_expert_gate", 1, spec.hidden) if shared.gate else None
        return SharedWeights(_mlp(g, f"layers.{i}.shared", shared.mlp, spec.hidden), gate)

    def _head(self, spec: ModelSpec) -> HeadWeights:
        g = GraphWeights(self._bundle, trunk_file("head"), head_signature(spec), self._stream)
        self._graphs.append(g)
        return HeadWeights(g.vector("final_norm", spec.hidden), g.matrix("head", spec.vocab_size, spec.hidden))


def _mlp(g: GraphWeights, prefix: str, mlp: MlpSpec, hidden: int) -> MlpWeights:
    rows = 2 * mlp.intermediate if mlp.gated else mlp.intermediate
    up = g.matrix(f"{prefix}_gate_up" if mlp.gated else f"{prefix}_up", rows, hidden)
    return MlpWeights(up, g.matrix(f"{prefix}_down", hidden, mlp.intermediate))
