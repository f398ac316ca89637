"""Building blocks of a decoder layer: plain ONNX operators, which TensorRT 10.3 knows, or ONNX Runtime's fused ones.

The cache is a read-only input and the softmax runs over cached and new keys at once; query heads of one key head are
folded into the rows of one product. See docs/adr/0010-portable-trunk-graphs.md.
"""

from __future__ import annotations

import numpy as np

from edge_runtime.backends.cpu.trunk.supported import rope_of
from edge_runtime.backends.cpu.trunk.weights import TrunkWeights
from edge_runtime.base.spec import Activation, MlpSpec, ModelSpec
from hobbit_export.trunk.graph import Graph
from hobbit_export.trunk.linear import LinearWriter, Matrix


def rms_norm(g: Graph, x: str, gamma: str, eps: float) -> str:
    """Return x / sqrt(mean(x^2) + eps) * gamma over the last axis."""
    if g.fused:
        return g.node("SimplifiedLayerNormalization", x, gamma, axis=-1, epsilon=eps)
    square = g.node("Pow", x, g.scalar(2.0))
    mean = g.node("ReduceMean", square, g.ints(-1), keepdims=1)
    root = g.node("Sqrt", g.node("Add", mean, g.scalar(eps)))
    return g.node("Mul", g.node("Div", x, root), gamma)


def add_norm(g: Graph, a: str, b: str, gamma: str, eps: float) -> tuple[str, str]:
    """Return a + b and its `rms_norm`."""
    if g.fused:
        normed, _, _, total = g.nodes(
            "SkipSimplifiedLayerNormalization", 4, a, b, gamma, contrib=True, unused=(1, 2), epsilon=eps
        )
        return total, normed
    total = g.node("Add", a, b)
    return total, rms_norm(g, total, gamma, eps)


def rotate(g: Graph, x: str, heads: int, dims: tuple[int, int]) -> str:
    """Apply rotary embedding to x [1, heads, T, C] with the inputs cos and sin [T, R/2].

    Args:
        g: the graph.
        x: queries or keys.
        heads: of x.
        dims: (R, C): the first R of C dims are rotated as two halves.
    """
    rotary, width = dims
    if g.fused:
        part = {"rotary_embedding_dim": rotary, "num_heads": heads} if rotary < width else {}
        return g.node("RotaryEmbedding", x, g.ints(0), "cos", "sin", contrib=True, **part)
    half = rotary // 2
    sizes = g.ints(half, half, *([width - rotary] if width > rotary else []))
    a, b, *rest = g.nodes("Split", 3 if width > rotary else 2, x, sizes, axis=-1)
    first = g.node("Sub", g.node("Mul", a, "cos"), g.node("Mul", b, "sin"))
    second = g.node("Add", g.node("Mul", b, "cos"), g.node("Mul", a, "sin"))
    return g.node("Concat", first, second, *rest, axis=-1)


def mlp(linear: LinearWriter, g: Graph, x: str, prefix: str, what: MlpSpec, hidden: int) -> str:
    """Return the output of a feed-forward network for weights `prefix`_gate_proj, ...; `hidden` is D."""
    width = what.intermediate
    if what.gated:
        gate_up = Matrix(f"{prefix}_gate_up", (f"{prefix}_gate_proj", f"{prefix}_up_proj"), (width, width), hidden)
        gate, up = g.nodes("Split", 2, linear.product(x, gate_up), g.ints(width, width), axis=-1)
        inner = g.node("Mul", activate(g, what.activation, gate), up)
    else:
        up = linear.product(x, Matrix(f"{prefix}_up", (f"{prefix}_up_proj",), (width,), hidden))
        inner = activate(g, what.activation, up)
    return linear.product(inner, Matrix(f"{prefix}_down", (f"{prefix}_down_proj",), (hidden,), width))


def activate(g: Graph, kind: Activation, x: str) -> str:
    """Apply an activation (`edge_runtime.backends.cpu.activation` is the same in numpy)."""
    if kind == "relu2":
        positive = g.node("Relu", x)
        return g.node("Mul", positive, positive)
    if kind == "gelu_tanh":
        cube = g.node("Mul", g.node("Mul", x, x), x)
        inner = g.node("Mul", g.node("Add", x, g.node("Mul", cube, g.scalar(0.044715))), g.scalar(0.7978845608028654))
        half = g.node("Mul", x, g.scalar(0.5))
        return g.node("Mul", half, g.node("Add", g.node("Tanh", inner), g.scalar(1.0)))
    return g.node("Mul", x, g.node("Sigmoid", x))


class Attention:
    """Emits attention of one layer."""

    def __init__(self, spec: ModelSpec, prefix: str, weights: TrunkWeights, graph: Graph, linear: LinearWriter) -> None:
        """Take the weights whose canonical names start with `prefix` (``layers.3.``)."""
        self._spec = spec
        self._prefix = prefix
        self._weights = weights
        self._g = graph
        self._linear = linear

    def emit(self, x: str) -> tuple[str, str, str]:
        """Return (output [1, T, D], new_k, new_v [1, G, T, C]) for normed x [1, T, D]."""
        s, g = self._spec.attention, self._g
        joint, v = self._project(x)
        joint = rotate(g, joint, s.num_heads + s.num_kv_heads, (rope_of(self._spec).dim, s.head_dim))
        q, k = g.nodes("Split", 2, joint, g.ints(s.num_heads, s.num_kv_heads), axis=1)
        out = self._attend(q, k, v)
        width = s.num_heads * s.head_dim
        out = self._linear.product(out, Matrix(f"{self._prefix}o", (f"{self._prefix}o",), (self._spec.hidden,), width))
        return self._bias(out, ("o",), s.o_bias), k, v

    def _project(self, x: str) -> tuple[str, str]:
        """Return queries and keys as one [1, H + G, T, C], normed where the model does, and values [1, G, T, C]."""
        s, g, p = self._spec.attention, self._g, self._prefix
        heads = (s.num_heads, s.num_kv_heads, s.num_kv_heads)
        widths = tuple(count * s.head_dim for count in heads)
        flat = self._linear.product(x, Matrix(f"{p}qkv", (f"{p}q", f"{p}k", f"{p}v"), widths, self._spec.hidden))
        flat = self._bias(flat, ("q", "k", "v"), s.qkv_bias)
        if s.qk_norm == "full":
            q, k, v = g.nodes("Split", 3, flat, g.ints(*widths), axis=-1)
            flat = g.node("Concat", self._norm(q, "q_norm"), self._norm(k, "k_norm"), v, axis=-1)
        if s.clip_qkv is not None:
            flat = g.node("Clip", flat, g.scalar(-s.clip_qkv), g.scalar(s.clip_qkv))
        split = g.node("Reshape", flat, g.ints(1, -1, sum(heads), s.head_dim))
        by_head = g.node("Transpose", split, perm=[0, 2, 1, 3])
        joint, v = g.nodes("Split", 2, by_head, g.ints(s.num_heads + s.num_kv_heads, s.num_kv_heads), axis=1)
        return self._norm_heads(joint) if s.qk_norm == "per_head" else joint, v

    def _norm_heads(self, joint: str) -> str:
        """Norm every head of [1, H + G, T, C], queries by one gamma and keys by another."""
        s, g, p = self._spec.attention, self._g, self._prefix
        gammas = [self._weights.get(f"{p}{name}") for name in ("q_norm", "k_norm")]
        by_head = np.repeat(np.stack(gammas), (s.num_heads, s.num_kv_heads), axis=0)[:, None]
        ones = g.vector(f"{p}ones", np.ones(s.head_dim, np.float32))
        return g.node("Mul", rms_norm(g, joint, ones, self._spec.rms_eps), g.vector(f"{p}qk_norm", by_head))

    def _attend(self, q: str, new_k: str, new_v: str) -> str:
        """Return [1, T, H * C]: softmax over cached and new keys, queries of a key head folded into rows."""
        s, g = self._spec.attention, self._g
        if not g.fused:  # there the products scale
            q = g.node("Mul", q, g.scalar(s.score_scale))
        folded = g.node("Reshape", q, g.ints(1, s.num_kv_heads, -1, s.head_dim))
        scores = [self._scores(folded, keys) for keys in ("past_k", new_k)]
        by_head = g.node("Reshape", g.node("Concat", *scores, axis=-1), g.ints(1, s.num_heads, -1, 0))
        masked = g.node("Add", by_head, "mask")
        joint = g.node("Concat", masked, self._sinks(q), axis=-1) if s.sinks else masked
        probs = g.node("Reshape", g.node("Softmax", joint, axis=-1), g.ints(1, s.num_kv_heads, -1, 0))
        slots = g.node("Shape", "past_k", start=2, end=3)
        tokens = g.node("Shape", new_k, start=2, end=3)
        sizes = g.node("Concat", slots, tokens, *([g.ints(1)] if s.sinks else []), axis=0)
        past, new, *_ = g.nodes("Split", 2 + s.sinks, probs, sizes, axis=-1)
        out = g.node("Add", g.node("MatMul", past, "past_v"), g.node("MatMul", new, new_v))
        out = g.node("Reshape", out, g.ints(1, s.num_heads, -1, s.head_dim))
        out = g.node("Transpose", out, perm=[0, 2, 1, 3])
        return g.node("Reshape", out, g.ints(1, -1, s.num_heads * s.head_dim))

    def _sinks(self, q: str) -> str:
        """Return the sink of each head, for every query of [1, H, T, C]: [1, H, T, 1]."""
        g, name = self._g, f"{self._prefix}sinks"
        mean = g.node("ReduceMean", q, g.ints(-1), keepdims=1)  # its shape is what counts: nothing here may repeat rows
        return g.node("Add", g.node("Sub", mean, mean), g.vector(name, self._weights.get(name)[None, :, None, None]))

    def _scores(self, queries: str, keys: str) -> str:
        """Products of [1, G, n, C] with keys [1, G, S, C]; fused ones are scaled."""
        g = self._g
        if g.fused:
            scale = self._spec.attention.score_scale
            return g.node("FusedMatMul", queries, keys, contrib=True, transB=1, alpha=scale)
        return g.node("MatMul", queries, g.node("Transpose", keys, perm=[0, 1, 3, 2]))

    def _norm(self, x: str, name: str) -> str:
        gamma = self._g.vector(self._prefix + name, self._weights.get(self._prefix + name))
        return rms_norm(self._g, x, gamma, self._spec.rms_eps)

    def _bias(self, x: str, names: tuple[str, ...], present: bool) -> str:
        """Add the biases of stacked matrices, if there are any."""
        if not present:
            return x
        biases = [self._weights.get(f"{self._prefix}{name}_bias") for name in names]
        return self._g.node("Add", x, self._g.vector(f"{self._prefix}{''.join(names)}_bias", np.concatenate(biases)))
