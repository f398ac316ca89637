"""Kimi Delta Attention over a block of tokens at once, exactly: the same small system as Gated DeltaNet's.

What a token sees of one before it is forgotten number by number of the key, so the products of keys are sums over
k_t[d] k_i[d] exp(c_t[d] - c_i[d]), c being the running sums of the gates. They are taken as they stand: written as a
product of two matrices, exp(-c_i) would overflow where much is forgotten. `gated_delta` has the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_runtime.backends.cpu.trunk.oracles.gated_delta import L2_EPS
from hobbit_export.trunk.attention.context import Emission
from hobbit_export.trunk.attention.gated_delta import END, inverse
from hobbit_export.trunk.attention.taps import causal_taps
from hobbit_export.trunk.blocks import activate, rms_norm
from hobbit_export.trunk.graph import Graph


class _Block(NamedTuple):
    """The recurrence's inputs for T tokens and H heads of C numbers.

    Attributes:
        q: [1, H, T, C], normed and scaled.
        k: [1, H, T, C], normed.
        v: [1, H, T, C].
        rate: b [1, H, T, 1].
        gates: c [1, H, T, C].
    """

    q: str
    k: str
    v: str
    rate: str
    gates: str


def emit(c: Emission, x: str) -> tuple[str, dict[str, str]]:
    """Return the output [1, T, D] and new conv, state for normed x [1, T, D]."""
    s, g = c.attention, c.graph
    width = s.num_value_heads * s.value_dim
    flat = c.product(x, "linear_qkv", tuple(f"linear_{name}" for name in "qkv"), (width,) * 3, c.hidden)
    taps = np.concatenate([c.get(f"conv_{name}")[:, 0] for name in "qkv"]).T
    mixed, new = causal_taps(c, flat, taps)
    block = _Block(*_heads(c, activate(g, "silu", mixed)), _rate(c, x), _gates(c, x))
    out, new["state"] = _recur(g, block, s.num_value_heads, s.key_dim)
    normed = c.norm(g.node("Transpose", out, perm=[0, 2, 1, 3]), "linear_norm")
    gated = g.node(
        "Mul", g.node("Reshape", normed, g.ints(1, -1, width)), g.node("Sigmoid", _through_one_head(c, x, "z"))
    )
    return c.product(gated, "linear_o", ("linear_o",), (c.hidden,), width), new


def _through_one_head(c: Emission, x: str, name: str) -> str:
    """Multiply [1, T, D] by the two matrices of a gate: [1, T, H * C]."""
    size, width = c.attention.value_dim, c.attention.num_value_heads * c.attention.value_dim
    low = c.product(x, f"linear_{name}_a", (f"linear_{name}_a",), (size,), c.hidden)
    return c.product(low, f"linear_{name}_b", (f"linear_{name}_b",), (width,), size)


def _heads(c: Emission, mixed: str) -> tuple[str, str, str]:
    """Return normed queries and keys, and values, each [1, H, T, C]."""
    s, g = c.attention, c.graph
    by_head = g.node("Reshape", mixed, g.ints(1, -1, 3 * s.num_key_heads, s.key_dim))
    by_head = g.node("Transpose", by_head, perm=[0, 2, 1, 3])
    both, v = g.nodes("Split", 2, by_head, g.ints(2 * s.num_key_heads, s.num_value_heads), axis=1)
    # x / sqrt(sum(x^2) + eps) is an RMS norm with eps / n, divided by sqrt(n)
    scale = c.vector("l2_scale", np.full(s.key_dim, s.key_dim**-0.5, np.float32))
    normed = rms_norm(g, both, scale, L2_EPS / s.key_dim)
    q, k = g.nodes("Split", 2, normed, g.ints(s.num_key_heads, s.num_key_heads), axis=1)
    return g.node("Mul", q, g.scalar(s.key_dim**-0.5)), k, v


def _rate(c: Emission, x: str) -> str:
    """Return learning rates b [1, H, T, 1]; they stay float32."""
    g, heads = c.graph, c.attention.num_value_heads
    b = g.node("Sigmoid", c.product(x, "linear_b", ("linear_b",), (heads,), c.hidden, exact=True))
    return g.node("Reshape", g.node("Transpose", b, perm=[0, 2, 1]), g.ints(1, heads, -1, 1))


def _gates(c: Emission, x: str) -> str:
    """Return running sums of the gates, [1, H, T, C]."""
    s, g = c.attention, c.graph
    step = g.node("Softplus", g.node("Add", _through_one_head(c, x, "f"), c.vector("dt_bias", c.get("dt_bias"))))
    decay = np.repeat(-np.exp(c.get("a_log").reshape(-1)), s.key_dim)
    total = g.node("MatMul", "causal", g.node("Mul", step, c.vector("decay", decay)))
    by_head = g.node("Reshape", total, g.ints(1, -1, s.num_key_heads, s.key_dim))
    return g.node("Transpose", by_head, perm=[0, 2, 1, 3])


def _recur(g: Graph, b: _Block, heads: int, size: int) -> tuple[str, str]:
    """Return the outputs [1, H, T, C] and the state behind them."""
    keys_keys, keys_queries = _products(g, b, heads, size)
    since = g.node("Exp", b.gates)
    k_and_q = g.node("Concat", g.node("Mul", b.k, since), g.node("Mul", b.q, since), axis=2)
    tokens = g.node("Shape", b.k, start=2, end=3)
    halves = g.node("Concat", tokens, tokens, axis=0)
    recalled, read = g.nodes("Split", 2, g.node("MatMul", k_and_q, "past_state"), halves, axis=2)

    below = g.node("Mul", keys_keys, b.rate)
    change = g.node("MatMul", inverse(g, below), g.node("Mul", g.node("Sub", b.v, recalled), b.rate))
    seen = g.node("Mul", keys_queries, "causal")
    out = g.node("Add", read, g.node("MatMul", seen, change))

    last = g.node("Slice", b.gates, g.ints(-1), g.ints(END), g.ints(2))
    faded = g.node("Transpose", g.node("Mul", b.k, g.node("Exp", g.node("Sub", last, b.gates))), perm=[0, 1, 3, 2])
    kept = g.node("Mul", "past_state", g.node("Transpose", g.node("Exp", last), perm=[0, 1, 3, 2]))
    return out, g.node("Add", kept, g.node("MatMul", faded, change))


def _products(g: Graph, b: _Block, heads: int, size: int) -> tuple[str, str]:
    """Return the decayed products of keys, and of queries, with the keys of tokens before, each [1, H, T, T]."""
    rows, columns = (g.ints(heads, *shape, size) for shape in ((-1, 1), (1, -1)))
    causal = g.node("Reshape", "causal", g.ints(0, 0, 1))
    apart = g.node("Sub", g.node("Reshape", b.gates, rows), g.node("Reshape", b.gates, columns))
    decay = g.node("Exp", g.node("Mul", apart, causal))  # what lies ahead would overflow
    faded = g.node("Mul", decay, g.node("Reshape", b.k, columns))  # [H, T, T, C]
    both = g.node("Concat", *(g.node("Reshape", each, g.ints(heads, -1, size, 1)) for each in (b.k, b.q)), axis=3)
    products = g.node("Transpose", g.node("MatMul", faded, both), perm=[3, 0, 1, 2])
    keys, queries = g.nodes("Split", 2, products, g.ints(1, 1), axis=0)
    return keys, queries
