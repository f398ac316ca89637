"""Softmax attention. The cache is a read-only input and the softmax runs over cached and new keys at once.

Query heads of one key head are folded into the rows of one product.
"""

from __future__ import annotations

import numpy as np

from hobbit_export.trunk.attention.context import Emission
from hobbit_export.trunk.blocks import rms_norm, rotate


def emit(c: Emission, x: str) -> tuple[str, dict[str, str]]:
    """Return the output [1, T, D] and new k, v [1, G, T, C] for normed x [1, T, D]."""
    s, g = c.attention, c.graph
    joint, v, gate = _project(c, x)
    if s.rope is not None:
        dims = (s.rope.dim, s.head_dim)
        joint = rotate(g, joint, s.num_heads + s.num_kv_heads, dims, pairs=s.rope.pairs)
    joint = _norm_heads(c, joint) if s.qk_norm == "per_head_rotated" else joint
    q, k = g.nodes("Split", 2, joint, g.ints(s.num_heads, s.num_kv_heads), axis=1)
    out = _attend(c, q, k, v)
    if gate is not None:
        out = g.node("Mul", out, g.node("Sigmoid", gate))
    out = c.product(out, "o", ("o",), (c.hidden,), s.num_heads * s.head_dim)
    return _bias(c, out, ("o",), s.o_bias), {"k": k, "v": v}


def _project(c: Emission, x: str) -> tuple[str, str, str | None]:
    """Return queries and keys as one [1, H + G, T, C], normed where the model does, values [1, G, T, C], and a gate."""
    s, g = c.attention, c.graph
    names = ("q", "k") if s.shared_kv else ("q", "k", "v")
    heads = (s.num_heads, s.num_kv_heads, s.num_kv_heads)[: len(names)]
    widths = tuple(count * s.head_dim for count in heads)
    stacked, gate = (*names, *["q_gate"] * s.output_gate), None
    flat = c.product(x, "".join(names), stacked, (*widths, *[widths[0]] * s.output_gate), c.hidden)
    flat = _bias(c, flat, stacked, s.qkv_bias)
    if s.output_gate:
        flat, gate = g.nodes("Split", 2, flat, g.ints(sum(widths), widths[0]), axis=-1)
    if s.qk_norm == "full" or s.shared_kv:
        q, k, *values = g.nodes("Split", len(names), flat, g.ints(*widths), axis=-1)
        v = values[0] if values else k
        q, k = (c.norm(q, "q_norm"), c.norm(k, "k_norm")) if s.qk_norm == "full" else (q, k)
        flat, heads = g.node("Concat", q, k, v, axis=-1), (s.num_heads, s.num_kv_heads, s.num_kv_heads)
    if s.clip_qkv is not None:
        flat = g.node("Clip", flat, g.scalar(-s.clip_qkv), g.scalar(s.clip_qkv))
    split = g.node("Reshape", flat, g.ints(1, -1, sum(heads), s.head_dim))
    by_head = g.node("Transpose", split, perm=[0, 2, 1, 3])
    joint, v = g.nodes("Split", 2, by_head, g.ints(s.num_heads + s.num_kv_heads, s.num_kv_heads), axis=1)
    v = rms_norm(g, v, _ones(c, "v_ones"), c.eps) if s.value_norm else v
    return (_norm_heads(c, joint) if s.qk_norm == "per_head" else joint), v, gate


def _norm_heads(c: Emission, joint: str) -> str:
    """Norm every head of [1, H + G, T, C], queries by one gamma and keys by another."""
    s, g = c.attention, c.graph
    by_head = np.repeat(np.stack([c.get("q_norm"), c.get("k_norm")]), (s.num_heads, s.num_kv_heads), axis=0)[:, None]
    return g.node("Mul", rms_norm(g, joint, _ones(c, "ones"), c.eps), c.vector("qk_norm", by_head))


def _ones(c: Emission, name: str) -> str:
    """Return the weight of a norm of each head that has none, stored under a name."""
    return c.vector(name, np.ones(c.attention.head_dim, np.float32))


def _attend(c: Emission, q: str, new_k: str, new_v: str) -> str:
    """Return [1, T, H * C]: softmax over cached and new keys, queries of a key head folded into rows."""
    s, g = c.attention, c.graph
    if not g.fused:  # there the products scale
        q = g.node("Mul", q, g.scalar(s.score_scale))
    folded = g.node("Reshape", q, g.ints(1, s.num_kv_heads, -1, s.head_dim))
    scores = [_scores(c, folded, keys) for keys in ("past_k", new_k)]
    by_head = g.node("Reshape", g.node("Concat", *scores, axis=-1), g.ints(1, s.num_heads, -1, 0))
    masked = g.node("Add", by_head, "mask")
    joint = g.node("Concat", masked, _sinks(c, q), axis=-1) if s.sinks else masked
    probs = g.node("Reshape", g.node("Softmax", joint, axis=-1), g.ints(1, s.num_kv_heads, -1, 0))
    slots = g.node("Shape", "past_k", start=2, end=3)
    tokens = g.node("Shape", new_k, start=2, end=3)
    sizes = g.node("Concat", slots, tokens, *([g.ints(1)] if s.sinks else []), axis=0)
    past, new, *_ = g.nodes("Split", 2 + s.sinks, probs, sizes, axis=-1)
    out = g.node("Add", g.node("MatMul", past, "past_v"), g.node("MatMul", new, new_v))
    out = g.node("Reshape", out, g.ints(1, s.num_heads, -1, s.head_dim))
    out = g.node("Transpose", out, perm=[0, 2, 1, 3])
    return g.node("Reshape", out, g.ints(1, -1, s.num_heads * s.head_dim))


def _sinks(c: Emission, q: str) -> str:
    """Return the sink of each head, for every query of [1, H, T, C]: [1, H, T, 1]."""
    g = c.graph
    mean = g.node("ReduceMean", q, g.ints(-1), keepdims=1)  # its shape is what counts: nothing here may repeat rows
    return g.node("Add", g.node("Sub", mean, mean), c.vector("sinks", c.get("sinks")[None, :, None, None]))


def _scores(c: Emission, queries: str, keys: str) -> str:
    """Products of [1, G, n, C] with keys [1, G, S, C]; fused ones are scaled."""
    g = c.graph
    if g.fused:
        return g.node("FusedMatMul", queries, keys, contrib=True, transB=1, alpha=c.attention.score_scale)
    return g.node("MatMul", queries, g.node("Transpose", keys, perm=[0, 1, 3, 2]))


def _bias(c: Emission, x: str, names: tuple[str, ...], present: bool) -> str:
    """Add the biases of stacked matrices, if there are any."""
    if not present:
        return x
    biases = np.concatenate([c.get(f"{name}_bias") for name in names])
    return c.graph.node("Add", x, c.vector(f"{''.join(names)}_bias", biases))
