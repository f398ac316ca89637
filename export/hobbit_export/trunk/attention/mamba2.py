"""Mamba-2 over a block of tokens at once, in its dual form (Dao, Gu, 2405.21060).

With c the running sum of dt A, E[t, i] = exp(c_t - c_i) for i <= t, v = dt x, and S the state before the block,

    output_t = exp(c_t) S^T C_t + sum_{i <= t} E[t, i] (C_t . B_i) v_i + D x_t
    S' = exp(c_T) S + sum_i exp(c_T - c_i) B_i v_i^T

Heads come as [G, R]: G groups that share B and C, R heads of each. For one token it is the recurrence itself.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_runtime.base.spec import conv_channels
from hobbit_export.trunk.attention.context import Emission
from hobbit_export.trunk.attention.taps import causal_taps
from hobbit_export.trunk.blocks import activate, rms_norm

_END = 2**31 - 1


class _Block(NamedTuple):
    """The recurrence's inputs for T tokens.

    Attributes:
        x: [G, R, T, value_dim].
        b: [G, 1, T, key_dim].
        c: [G, 1, T, key_dim].
        step: dt [G, R, T, 1].
        decays: running sums c [G, R, T, 1].
    """

    x: str
    b: str
    c: str
    step: str
    decays: str


def emit(c: Emission, x: str) -> tuple[str, dict[str, str]]:
    """Return the output [1, T, D] and new conv, state for normed x [1, T, D]."""
    s, g = c.attention, c.graph
    width, channels = s.num_value_heads * s.value_dim, conv_channels(s)
    joint = c.product(x, "linear_zxbc", ("linear_z", "linear_xbc"), (width, channels), c.hidden)
    z, flat = g.nodes("Split", 2, joint, g.ints(width, channels), axis=-1)
    mixed, new = causal_taps(c, flat, c.get("conv")[:, 0].T)
    if s.conv_bias:
        mixed = g.node("Add", mixed, c.vector("conv_bias", c.get("conv_bias")))
    block = _Block(*_heads(c, activate(g, "silu", mixed)), *_steps(c, x))
    out, new["state"] = _recur(c, block)
    out = g.node("Reshape", g.node("Transpose", out, perm=[0, 2, 1, 3]), g.ints(1, -1, width))
    gated = g.node("Mul", out, activate(g, "silu", z))
    return c.product(_norm(c, gated, width), "linear_o", ("linear_o",), (c.hidden,), width), new


def _heads(c: Emission, mixed: str) -> tuple[str, str, str]:
    """Return x, B and C of [1, T, n]."""
    s, g = c.attention, c.graph
    width, groups = s.num_value_heads * s.value_dim, s.num_key_heads
    x, both = g.nodes("Split", 2, mixed, g.ints(width, 2 * groups * s.key_dim), axis=-1)
    x = g.node("Transpose", g.node("Reshape", x, g.ints(1, -1, s.num_value_heads, s.value_dim)), perm=[0, 2, 1, 3])
    both = g.node("Transpose", g.node("Reshape", both, g.ints(1, -1, 2 * groups, s.key_dim)), perm=[0, 2, 1, 3])
    b_and_c = g.nodes("Split", 2, both, g.ints(groups, groups), axis=1)
    b, c_ = (g.node("Reshape", each, g.ints(groups, 1, -1, s.key_dim)) for each in b_and_c)
    return g.node("Reshape", x, g.ints(groups, s.num_value_heads // groups, -1, s.value_dim)), b, c_


def _steps(c: Emission, x: str) -> tuple[str, str]:
    """Return dt and the running sums of dt A. Both stay float32: they are in exponents."""
    s, g, heads = c.attention, c.graph, c.attention.num_value_heads
    raw = c.product(x, "linear_dt", ("linear_dt",), (heads,), c.hidden, exact=True)
    step = g.node("Softplus", g.node("Add", raw, c.vector("dt_bias", c.get("dt_bias"))))
    decays = g.node("MatMul", "causal", g.node("Mul", step, c.vector("decay", -np.exp(c.get("a_log")))))
    both = g.node("Transpose", g.node("Concat", step, decays, axis=-1), perm=[0, 2, 1])
    shape = g.ints(s.num_key_heads, heads // s.num_key_heads, -1, 1)
    step, decays = (g.node("Reshape", each, shape) for each in g.nodes("Split", 2, both, g.ints(heads, heads), axis=1))
    return step, decays


def _recur(c: Emission, b: _Block) -> tuple[str, str]:
    """Return the outputs [1, H, T, value_dim] and the state behind them."""
    s, g = c.attention, c.graph
    groups, heads = s.num_key_heads, s.num_value_heads
    row = g.node("Transpose", b.decays, perm=[0, 1, 3, 2])
    b_rows = g.node("Transpose", b.b, perm=[0, 1, 3, 2])
    apart = g.node("Mul", g.node("Sub", b.decays, row), "causal")  # what lies ahead would overflow
    seen = g.node("Mul", g.node("Mul", g.node("Exp", apart), "causal"), g.node("MatMul", b.c, b_rows))
    values = g.node("Mul", b.x, b.step)
    past = g.node("Reshape", "past_state", g.ints(groups, heads // groups, s.key_dim, s.value_dim))
    recalled = g.node("Mul", g.node("Exp", b.decays), g.node("MatMul", b.c, past))
    skip = c.vector("d_skip", c.get("d_skip").reshape(groups, -1, 1, 1))
    out = g.node("Add", g.node("Add", recalled, g.node("MatMul", seen, values)), g.node("Mul", b.x, skip))
    last = g.node("Slice", b.decays, g.ints(-1), g.ints(_END), g.ints(2))
    since = g.node("Exp", g.node("Sub", last, b.decays))
    written = g.node("MatMul", b_rows, g.node("Mul", values, since))
    state = g.node("Add", g.node("Mul", past, g.node("Exp", last)), written)
    return (
        g.node("Reshape", out, g.ints(1, heads, -1, s.value_dim)),
        g.node("Reshape", state, g.ints(1, heads, s.key_dim, s.value_dim)),
    )


def _norm(c: Emission, gated: str, width: int) -> str:
    """RMS norm of [1, T, width] within each group, times the weights."""
    g, size = c.graph, width // c.attention.num_key_heads
    by_group = g.node("Reshape", gated, g.ints(1, -1, c.attention.num_key_heads, size))
    normed = rms_norm(g, by_group, c.vector("ones", np.ones(size, np.float32)), c.eps)
    flat = g.node("Reshape", normed, g.ints(1, -1, width))
    return g.node("Mul", flat, c.vector("linear_norm", c.get("linear_norm")))
