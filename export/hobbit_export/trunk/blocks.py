"""Building blocks of a decoder layer as plain ONNX operators that ONNX Runtime and TensorRT 10.3 both know.

The cache is a read-only input and the softmax runs over cached and new keys at once; query heads of one key head are
folded into the rows of one product. See docs/adr/0010-portable-trunk-graphs.md.
"""

from __future__ import annotations

from edge_runtime.spec import ModelSpec
from edge_runtime.trunk.weights import TrunkWeights
from hobbit_export.trunk.graph import Graph
from hobbit_export.trunk.linear import LinearWriter, Matrix


def rms_norm(g: Graph, x: str, gamma: str, eps: float) -> str:
    """Return x / sqrt(mean(x^2) + eps) * gamma over the last axis. ONNX Runtime fuses exactly this pattern."""
    square = g.node("Pow", x, g.scalar(2.0))
    mean = g.node("ReduceMean", square, g.ints(-1), keepdims=1)
    root = g.node("Sqrt", g.node("Add", mean, g.scalar(eps)))
    return g.node("Mul", g.node("Div", x, root), gamma)


def rotate(g: Graph, x: str, dims: tuple[int, int]) -> str:
    """Apply rotary embedding to x [1, heads, T, C] with the inputs cos and sin [1, 1, T, R/2].

    Args:
        g: the graph.
        x: queries or keys.
        dims: (R, C): the first R of C dims are rotated as two halves.
    """
    rotary, width = dims
    half = rotary // 2
    sizes = g.ints(half, half, *([width - rotary] if width > rotary else []))
    a, b, *rest = g.nodes("Split", 3 if width > rotary else 2, x, sizes, axis=-1)
    first = g.node("Sub", g.node("Mul", a, "cos"), g.node("Mul", b, "sin"))
    second = g.node("Add", g.node("Mul", b, "cos"), g.node("Mul", a, "sin"))
    return g.node("Concat", first, second, *rest, axis=-1)


def swiglu(linear: LinearWriter, g: Graph, x: str, prefix: str, sizes: tuple[int, int]) -> str:
    """Return down(silu(gate x) * (up x)) for weights `prefix`_gate_proj, ...; sizes = (D, intermediate)."""
    d, width = sizes
    gate_up = Matrix(f"{prefix}_gate_up", (f"{prefix}_gate_proj", f"{prefix}_up_proj"), (width, width), d)
    gate, up = g.nodes("Split", 2, linear.product(x, gate_up), g.ints(width, width), axis=-1)
    hidden = g.node("Mul", g.node("Mul", gate, g.node("Sigmoid", gate)), up)
    return linear.product(hidden, Matrix(f"{prefix}_down", (f"{prefix}_down_proj",), (d,), width))


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
        s, g = self._spec, self._g
        q, k, v = self._project(x)
        if s.qk_norm == "per_head":
            q, k = self._norm(q, "q_norm"), self._norm(k, "k_norm")
        dims = (s.rope.dim, s.head_dim)
        joint = rotate(g, g.node("Concat", q, k, axis=1), dims)
        q, k = g.nodes("Split", 2, joint, g.ints(s.num_heads, s.num_kv_heads), axis=1)
        out = self._attend(g.node("Mul", q, g.scalar(s.head_dim**-0.5)), k, v)
        width = s.num_heads * s.head_dim
        out = self._linear.product(out, Matrix(f"{self._prefix}o", (f"{self._prefix}o",), (s.hidden,), width))
        return self._bias(out, "o_bias", s.o_bias), k, v

    def _project(self, x: str) -> tuple[str, str, str]:
        """Return q [1, H, T, C], k and v [1, G, T, C] before rotation."""
        s, g, p = self._spec, self._g, self._prefix
        widths = tuple(heads * s.head_dim for heads in (s.num_heads, s.num_kv_heads, s.num_kv_heads))
        flat = self._linear.product(x, Matrix(f"{p}qkv", (f"{p}q", f"{p}k", f"{p}v"), widths, s.hidden))
        parts = g.nodes("Split", 3, flat, g.ints(*widths), axis=-1)
        parts = [self._bias(part, f"{name}_bias", s.qkv_bias) for part, name in zip(parts, "qkv", strict=True)]
        if s.qk_norm == "full":
            parts = [self._norm(parts[0], "q_norm"), self._norm(parts[1], "k_norm"), parts[2]]
        if s.clip_qkv is not None:
            low, high = g.scalar(-s.clip_qkv), g.scalar(s.clip_qkv)
            parts = [g.node("Clip", part, low, high) for part in parts]
        q, k, v = (self._heads(part, width // s.head_dim) for part, width in zip(parts, widths, strict=True))
        return q, k, v

    def _heads(self, flat: str, heads: int) -> str:
        """[1, T, heads * C] -> [1, heads, T, C]."""
        g = self._g
        split = g.node("Reshape", flat, g.ints(1, -1, heads, self._spec.head_dim))
        return g.node("Transpose", split, perm=[0, 2, 1, 3])

    def _attend(self, q: str, new_k: str, new_v: str) -> str:
        """Return [1, T, H * C]: softmax over cached and new keys, queries of a key head folded into rows."""
        s, g = self._spec, self._g
        folded = g.node("Reshape", q, g.ints(1, s.num_kv_heads, -1, s.head_dim))
        scores = [
            g.node("MatMul", folded, g.node("Transpose", keys, perm=[0, 1, 3, 2])) for keys in ("past_k", new_k)
        ]  # fmt: skip
        by_head = g.node("Reshape", g.node("Concat", *scores, axis=-1), g.ints(1, s.num_heads, -1, 0))
        probs = g.node("Softmax", g.node("Add", by_head, "mask"), axis=-1)
        probs = g.node("Reshape", probs, g.ints(1, s.num_kv_heads, -1, 0))
        slots = g.node("Shape", "past_k", start=2, end=3)
        tokens = g.node("Shape", new_k, start=2, end=3)
        past, new = g.nodes("Split", 2, probs, g.node("Concat", slots, tokens, axis=0), axis=-1)
        out = g.node("Add", g.node("MatMul", past, "past_v"), g.node("MatMul", new, new_v))
        out = g.node("Reshape", out, g.ints(1, s.num_heads, -1, s.head_dim))
        out = g.node("Transpose", out, perm=[0, 2, 1, 3])
        return g.node("Reshape", out, g.ints(1, -1, s.num_heads * s.head_dim))

    def _norm(self, x: str, name: str) -> str:
        gamma = self._g.vector(self._prefix + name, self._weights.get(self._prefix + name))
        return rms_norm(self._g, x, gamma, self._spec.rms_eps)

    def _bias(self, x: str, name: str, present: bool) -> str:
        if not present:
            return x
        return self._g.node("Add", x, self._g.vector(self._prefix + name, self._weights.get(self._prefix + name)))
