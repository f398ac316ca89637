"""Building blocks of a decoder layer: plain ONNX operators, which TensorRT 10.3 knows, or ONNX Runtime's fused ones.

Reasons: docs/adr/0010-portable-trunk-graphs.md.
"""

from __future__ import annotations

from edge_runtime.base.spec import Activation, MlpSpec
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


def add_norm(g: Graph, a: str, b: str, weights: tuple[str, ...], eps: float) -> tuple[str, str]:
    """Return a + b and its `norm`."""
    if g.fused and len(weights) == 1:
        normed, _, _, total = g.nodes(
            "SkipSimplifiedLayerNormalization", 4, a, b, *weights, contrib=True, unused=(1, 2), epsilon=eps
        )
        return total, normed
    total = g.node("Add", a, b)
    return total, norm(g, total, weights, eps)


def norm(g: Graph, x: str, weights: tuple[str, ...], eps: float) -> str:
    """Norm over the last axis: `rms_norm` for a gamma, LayerNorm for a gamma and a bias."""
    gamma, *bias = weights
    if bias:
        return g.node("LayerNormalization", x, gamma, *bias, axis=-1, epsilon=eps)
    return rms_norm(g, x, gamma, eps)


def scaled(g: Graph, x: str, factor: float) -> str:
    """Return x * factor."""
    return x if factor == 1 else g.node("Mul", x, g.scalar(factor))


def rotate(g: Graph, x: str, heads: int, dims: tuple[int, int], *, pairs: bool = False) -> str:
    """Apply rotary embedding to x [1, heads, T, C] with the inputs cos and sin [T, R/2].

    Args:
        g: the graph.
        x: queries or keys.
        heads: of x.
        dims: (R, C): the first R of C dims are rotated, as two halves.
        pairs: as pairs of neighbours. What comes out may hold them as halves: queries and keys are alike, and nothing
            else depends on the order.
    """
    rotary, width = dims
    if g.fused:
        part = {"rotary_embedding_dim": rotary, "num_heads": heads} if rotary < width else {}
        part |= {"interleaved": 1} if pairs else {}
        return g.node("RotaryEmbedding", x, g.ints(0), "cos", "sin", contrib=True, **part)
    half = rotary // 2
    if pairs:
        x = _halves_of_pairs(g, x, heads, dims)
    sizes = g.ints(half, half, *([width - rotary] if width > rotary else []))
    a, b, *rest = g.nodes("Split", 3 if width > rotary else 2, x, sizes, axis=-1)
    first = g.node("Sub", g.node("Mul", a, "cos"), g.node("Mul", b, "sin"))
    second = g.node("Add", g.node("Mul", b, "cos"), g.node("Mul", a, "sin"))
    return g.node("Concat", first, second, *rest, axis=-1)


def _halves_of_pairs(g: Graph, x: str, heads: int, dims: tuple[int, int]) -> str:
    """Put the first numbers of all pairs before the second ones, within the R of C dims that are rotated."""
    rotary, width = dims
    rest: list[str] = []
    if width > rotary:
        x, *rest = g.nodes("Split", 2, x, g.ints(rotary, width - rotary), axis=-1)
    by_pair = g.node("Reshape", x, g.ints(1, heads, -1, rotary // 2, 2))
    halves = g.node("Reshape", g.node("Transpose", by_pair, perm=[0, 1, 2, 4, 3]), g.ints(1, heads, -1, rotary))
    return g.node("Concat", halves, *rest, axis=-1) if rest else halves


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
