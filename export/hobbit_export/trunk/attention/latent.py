"""MLA with the compressed cache: queries are brought to it, and what they see is brought back (weights absorbed).

The cached states serve all heads, which are folded into the rows of one product. The two matrices of a head are
products of their own, so that they are quantised as any other. docs/adr/0093-mla-keeps-what-it-compresses.md has the
reasons.
"""

from __future__ import annotations

from hobbit_export.trunk.attention.context import Emission
from hobbit_export.trunk.blocks import rms_norm, rotate

_AT_ONCE = 32
"""Inputs or outputs of one node at most; more heads go through two of them."""


def emit(c: Emission, x: str) -> tuple[str, dict[str, str]]:
    """Return the output [1, T, D] and new latent [1, 1, T, R + rope_dim] for normed x [1, T, D]."""
    a, g = c.attention, c.graph
    new = _compressed(c, x)
    values = _per_head(c, _attend(c, _queries(c, x), new), "v_up", a.kv_rank, a.value_dim)
    flat = g.node("Reshape", g.node("Transpose", values, perm=[0, 2, 1, 3]), g.ints(1, -1, a.num_heads * a.value_dim))
    return _product(c, flat, "o", c.hidden, a.num_heads * a.value_dim), {"latent": new}


def _queries(c: Emission, x: str) -> str:
    """Return queries in the compressed space, and their rotated part, [1, H, T, R + rope_dim]."""
    a, g = c.attention, c.graph
    width = a.num_heads * (a.nope_dim + a.rope_dim)
    if a.query_rank is None:
        flat = c.product(x, "q", ("q",), (width,), c.hidden)
    else:
        low = _norm(c, _product(c, x, "q_a", a.query_rank, c.hidden), "q_a_norm")
        flat = c.product(low, "q_b", ("q_b",), (width,), a.query_rank)
    by_head = g.node(
        "Transpose", g.node("Reshape", flat, g.ints(1, -1, a.num_heads, width // a.num_heads)), perm=[0, 2, 1, 3]
    )
    plain, turned = g.nodes("Split", 2, by_head, g.ints(a.nope_dim, a.rope_dim), axis=-1)
    return g.node(
        "Concat", _per_head(c, plain, "k_up", a.nope_dim, a.kv_rank), _rotate(c, turned, a.num_heads), axis=-1
    )


def _compressed(c: Emission, x: str) -> str:
    """Return what is kept of each token, [1, 1, T, R + rope_dim]."""
    a, g = c.attention, c.graph
    low = _product(c, x, "kv_a", a.kv_rank + a.rope_dim, c.hidden)
    state, key = g.nodes("Split", 2, low, g.ints(a.kv_rank, a.rope_dim), axis=-1)
    key = _rotate(c, g.node("Reshape", key, g.ints(1, 1, -1, a.rope_dim)), 1)
    return g.node("Concat", g.node("Reshape", _norm(c, state, "kv_a_norm"), g.ints(1, 1, -1, a.kv_rank)), key, axis=-1)


def _attend(c: Emission, queries: str, new: str) -> str:
    """Return what each head sees, [1, H, T, R].

    The sums run over the rotated keys as well, which are then dropped: cutting them off the cache would copy it.
    """
    a, g = c.attention, c.graph
    kept = a.kv_rank + a.rope_dim
    if not g.fused:  # there the products scale
        queries = g.node("Mul", queries, g.scalar(a.score_scale))
    folded = g.node("Reshape", queries, g.ints(1, 1, -1, kept))
    scores = [_scores(c, folded, keys) for keys in ("past_latent", new)]
    by_head = g.node("Reshape", g.node("Concat", *scores, axis=-1), g.ints(1, a.num_heads, -1, 0))
    probs = g.node("Softmax", g.node("Add", by_head, "mask"), axis=-1)
    probs = g.node("Reshape", probs, g.ints(1, 1, -1, 0))
    sizes = [g.node("Shape", each, start=2, end=3) for each in ("past_latent", new)]
    past, own = g.nodes("Split", 2, probs, g.node("Concat", *sizes, axis=0), axis=-1)
    seen = g.node("Add", g.node("MatMul", past, "past_latent"), g.node("MatMul", own, new))
    states, _ = g.nodes("Split", 2, seen, g.ints(a.kv_rank, a.rope_dim), axis=-1)
    return g.node("Reshape", states, g.ints(1, a.num_heads, -1, a.kv_rank))


def _scores(c: Emission, queries: str, keys: str) -> str:
    """Products of [1, 1, n, C] with keys [1, 1, S, C]; fused ones are scaled."""
    g = c.graph
    if g.fused:
        return g.node("FusedMatMul", queries, keys, contrib=True, transB=1, alpha=c.attention.score_scale)
    return g.node("MatMul", queries, g.node("Transpose", keys, perm=[0, 1, 3, 2]))


def _per_head(c: Emission, x: str, name: str, inputs: int, outputs: int) -> str:
    """Multiply each head of [1, H, T, K] by its own rows of a weight [H * N, K]: [1, H, T, N]."""
    heads = _split(c, x, c.attention.num_heads)
    products = [
        c.product(head, f"{name}_{i}", (name,), (outputs,), inputs, first=i * outputs) for i, head in enumerate(heads)
    ]
    groups = [products[i : i + _AT_ONCE] for i in range(0, len(products), _AT_ONCE)]
    joined = [c.graph.node("Concat", *group, axis=1) if len(group) > 1 else group[0] for group in groups]
    return c.graph.node("Concat", *joined, axis=1) if len(joined) > 1 else joined[0]


def _split(c: Emission, x: str, heads: int) -> list[str]:
    """Return the heads of [1, H, T, K], each [1, 1, T, K]."""
    if heads == 1:
        return [x]
    sizes = [min(_AT_ONCE, heads - i) for i in range(0, heads, _AT_ONCE)] if heads > _AT_ONCE else [1] * heads
    parts = c.graph.nodes("Split", len(sizes), x, c.graph.ints(*sizes), axis=1)
    return (
        parts
        if heads <= _AT_ONCE
        else [one for part, size in zip(parts, sizes, strict=True) for one in _split(c, part, size)]
    )


def _rotate(c: Emission, x: str, heads: int) -> str:
    """Rotate [1, heads, T, rope_dim], if the model does."""
    a = c.attention
    return x if a.rope is None else rotate(c.graph, x, heads, (a.rope.dim, a.rope_dim))


def _product(c: Emission, x: str, name: str, outputs: int, inputs: int) -> str:
    """Multiply by one of the matrices that may have a bias."""
    out = c.product(x, name, (name,), (outputs,), inputs)
    return c.graph.node("Add", out, c.vector(f"{name}_bias", c.get(f"{name}_bias"))) if c.attention.bias else out


def _norm(c: Emission, x: str, name: str) -> str:
    return rms_norm(c.graph, x, c.vector(name, c.get(name)), c.attention.norm_eps or c.eps)
