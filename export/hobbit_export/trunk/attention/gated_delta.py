"""Gated DeltaNet over a block of tokens at once, exactly: what each token changes is the solution of a small system.

With c the running sum of the gates g, E[t, i] = exp(c_t - c_i) for i <= t, and S the state before the block, the change
u_t that a token's key writes satisfies (chunkwise form of Yang et al., 2412.06464)

    u_t = b_t (v_t - exp(c_t) S^T k_t - sum_{i < t} E[t, i] (k_t . k_i) u_i)

that is (I + A) U = B, with A below the diagonal. The outputs and the next state are sums over U. (I + A)^-1 is put
together from its blocks of 1, 2, 4, ... tokens: the inverse of a block with a corner C below is that of its two halves
M, less M C M. Powers of A would be fewer products, but they overflow where tokens repeat. For one token A is 0, and
what is left is the recurrence itself. Reasons: docs/adr/0089-recurrence-in-graphs.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_runtime.backends.cpu.trunk.oracles.gated_delta import L2_EPS
from edge_runtime.backends.cpu.trunk.tables import LEVELS
from edge_runtime.base.spec import LinearAttention, conv_channels
from hobbit_export.trunk.attention.context import Emission
from hobbit_export.trunk.attention.taps import causal_taps
from hobbit_export.trunk.blocks import activate, rms_norm
from hobbit_export.trunk.graph import Graph


class _Block(NamedTuple):
    """The recurrence's inputs for T tokens and H heads.

    Attributes:
        q: [1, H, T, key_dim], normed and scaled.
        k: [1, H, T, key_dim], normed.
        v: [1, H, T, value_dim].
        rate: b [1, H, T, 1].
        gates: c [1, H, T, 1].
    """

    q: str
    k: str
    v: str
    rate: str
    gates: str


def emit(c: Emission, x: str) -> tuple[str, dict[str, str]]:
    """Return the output [1, T, D] and new conv, state for normed x [1, T, D]."""
    s, g = c.attention, c.graph
    width, keys = s.num_value_heads * s.value_dim, s.num_key_heads * s.key_dim
    names = tuple(f"linear_{name}" for name in "qkvz")
    joint = c.product(x, "linear_qkvz", names, (keys, keys, width, width), c.hidden)
    flat, z = g.nodes("Split", 2, joint, g.ints(conv_channels(s), width), axis=-1)
    mixed, new = causal_taps(c, flat, c.get("conv")[:, 0].T)
    block = _Block(*_heads(c, activate(g, "silu", mixed)), *_rates(c, x))
    out, new["state"] = _recur(g, block)
    out = g.node("Transpose", out, perm=[0, 2, 1, 3])
    normed = c.norm(out, "linear_norm")
    gate = g.node("Reshape", activate(g, "silu", z), g.ints(1, -1, s.num_value_heads, s.value_dim))
    out = g.node("Reshape", g.node("Mul", normed, gate), g.ints(1, -1, width))
    return c.product(out, "linear_o", ("linear_o",), (c.hidden,), width), new


def _heads(c: Emission, mixed: str) -> tuple[str, str, str]:
    """Return normed queries and keys [1, H, T, key_dim], repeated for the values of one key head, and values."""
    s, g = c.attention, c.graph
    keys, width = s.num_key_heads * s.key_dim, s.num_value_heads * s.value_dim
    both, v = g.nodes("Split", 2, mixed, g.ints(2 * keys, width), axis=-1)
    both = g.node("Reshape", both, g.ints(1, -1, 2 * s.num_key_heads, s.key_dim))
    # x / sqrt(sum(x^2) + eps) is an RMS norm with eps / n, divided by sqrt(n)
    scale = c.vector("l2_scale", np.full(s.key_dim, s.key_dim**-0.5, np.float32))
    normed = g.node("Transpose", rms_norm(g, both, scale, L2_EPS / s.key_dim), perm=[0, 2, 1, 3])
    q, k = g.nodes("Split", 2, normed, g.ints(s.num_key_heads, s.num_key_heads), axis=1)
    q = g.node("Mul", q, g.scalar(s.key_dim**-0.5))
    v = g.node("Reshape", v, g.ints(1, -1, s.num_value_heads, s.value_dim))
    return _repeat(g, s, q), _repeat(g, s, k), g.node("Transpose", v, perm=[0, 2, 1, 3])


def _repeat(g: Graph, s: LinearAttention, x: str) -> str:
    """Repeat each head of [1, n, T, C] for the value heads it serves."""
    group = s.num_value_heads // s.num_key_heads
    if group == 1:
        return x
    single = g.node("Reshape", x, g.ints(s.num_key_heads, 1, -1, s.key_dim))
    return g.node("Reshape", g.node("Concat", *[single] * group, axis=1), g.ints(1, s.num_value_heads, -1, s.key_dim))


def _rates(c: Emission, x: str) -> tuple[str, str]:
    """Return learning rates b and running sums c of the gates, each [1, H, T, 1]. Both stay float32."""
    g, heads = c.graph, c.attention.num_value_heads
    joint = c.product(x, "linear_ba", ("linear_b", "linear_a"), (heads, heads), c.hidden, exact=True)
    b, a = g.nodes("Split", 2, joint, g.ints(heads, heads), axis=-1)
    step = g.node("Softplus", g.node("Add", a, c.vector("dt_bias", c.get("dt_bias"))))
    gates = g.node("MatMul", "causal", g.node("Mul", step, c.vector("decay", -np.exp(c.get("a_log")))))
    both = g.node("Transpose", g.node("Concat", g.node("Sigmoid", b), gates, axis=-1), perm=[0, 2, 1])
    columns = g.node("Reshape", both, g.ints(1, 2 * heads, -1, 1))
    rate, total = g.nodes("Split", 2, columns, g.ints(heads, heads), axis=1)
    return rate, total


def _recur(g: Graph, b: _Block) -> tuple[str, str]:
    """Return the outputs [1, H, T, value_dim] and the state behind them."""
    gate_row = g.node("Transpose", b.gates, perm=[0, 1, 3, 2])
    apart = g.node("Mul", g.node("Sub", b.gates, gate_row), "causal")  # what lies ahead would overflow
    decay, since = g.node("Exp", apart), g.node("Exp", b.gates)
    k_rows = g.node("Transpose", b.k, perm=[0, 1, 3, 2])
    k_and_q = g.node("Concat", b.k, b.q, axis=2)  # one product reads the state once for both
    tokens = g.node("Shape", b.k, start=2, end=3)
    halves = g.node("Concat", tokens, tokens, axis=0)
    keys_keys, keys_queries = g.nodes("Split", 2, g.node("MatMul", k_and_q, k_rows), halves, axis=2)
    recalled, read = g.nodes("Split", 2, g.node("MatMul", k_and_q, "past_state"), halves, axis=2)

    below = g.node("Mul", g.node("Mul", keys_keys, decay), b.rate)
    wanted = g.node("Mul", g.node("Sub", b.v, g.node("Mul", since, recalled)), b.rate)
    change = g.node("MatMul", inverse(g, below), wanted)

    seen = g.node("Mul", g.node("Mul", keys_queries, decay), "causal")
    out = g.node("Add", g.node("Mul", since, read), g.node("MatMul", seen, change))
    last = g.node("Slice", gate_row, g.ints(-1), g.ints(END), g.ints(3))
    written = g.node("MatMul", g.node("Mul", k_rows, g.node("Exp", g.node("Sub", last, gate_row))), change)
    state = g.node("Add", g.node("Mul", "past_state", g.node("Exp", last)), written)
    return out, state


def inverse(g: Graph, below: str) -> str:
    """Return (I + A)^-1 of A [1, H, T, T]; only what lies below the diagonal counts."""
    identity, *corners = g.nodes("Split", 1 + LEVELS, "levels", g.ints(*[1] * (1 + LEVELS)), axis=0)
    inverse = g.node("Sub", identity, g.node("Mul", below, corners[0]))
    for corner in corners[1:]:
        product = g.node("MatMul", g.node("MatMul", inverse, g.node("Mul", below, corner)), inverse)
        inverse = g.node("Sub", inverse, product)
    return inverse


END = 2**31 - 1
