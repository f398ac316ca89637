"""Mamba-2: a recurrence whose state forgets by one number a head and token.

A head's state S [key_dim, value_dim] changes with every token, from what the convolution gives: its input x
[value_dim], and B and C [key_dim], which the heads of a group share. With dt = softplus(projected + bias) and a
negative A of the head (Dao, Gu: Transformers are SSMs, 2405.21060):

    S <- exp(dt A) S + B (dt x)^T;  output S^T C + D x

The output is gated by silu(z) and then normed within each group. dt has no other limits: the authors' code and
transformers' decoding have none. See docs/adr/0094-mamba-2-in-blocks.md.
"""

from __future__ import annotations

import numpy as np

from edge_runtime.backends.cpu.activation import activate
from edge_runtime.backends.cpu.trunk.oracles.base import Growth, LayerRun, Shapes, causal_taps, rms_norm
from edge_runtime.backends.cpu.trunk.tables import MAX_BLOCK
from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import LinearAttention, conv_channels

MAX_TOKENS: int | None = MAX_BLOCK
TABLES: tuple[str, ...] = ("causal",)


def problem(attention: LinearAttention) -> str | None:
    """See `Mixer.problem`: all of it runs."""
    return None


def weight_shapes(attention: LinearAttention, hidden: int) -> Shapes:
    """See `Mixer.weight_shapes`; z gates the output, xbc is what the convolution mixes: x, B and C."""
    s, channels = attention, conv_channels(attention)
    heads, width = s.num_value_heads, s.num_value_heads * s.value_dim
    shapes: Shapes = {
        "linear_z": (width, hidden), "linear_xbc": (channels, hidden), "linear_dt": (heads, hidden),
        "conv": (channels, 1, s.kernel), "a_log": (heads,), "dt_bias": (heads,), "d_skip": (heads,),
        "linear_norm": (width,), "linear_o": (hidden, width),
    }  # fmt: skip
    return shapes | {"conv_bias": (channels,)} if s.conv_bias else shapes


def growth(attention: LinearAttention, hidden: int) -> Growth:
    """See `Mixer.growth`."""
    s, channels = attention, conv_channels(attention)
    widest = channels + s.num_value_heads * max(s.value_dim, 2)
    states = s.num_value_heads * s.key_dim * s.value_dim
    return Growth(widest, s.num_value_heads, fixed=max(states, s.kernel * channels))


def run(layer: LayerRun, x: F32) -> tuple[F32, dict[str, F32]]:
    """See `Mixer.run`."""
    s, tokens = layer.attention, len(x)
    mixed, new = causal_taps(layer, layer.linear(x, "linear_xbc"), layer.get("conv")[:, 0].T)
    mixed = activate("silu", mixed + layer.get("conv_bias") if s.conv_bias else mixed)
    width, keys = s.num_value_heads * s.value_dim, s.num_key_heads * s.key_dim
    values, b, c = np.split(mixed, (width, width + keys), -1)
    values = values.reshape(tokens, -1, s.value_dim)
    group = s.num_value_heads // s.num_key_heads
    b, c = (part.reshape(tokens, -1, s.key_dim).repeat(group, 1) for part in (b, c))
    step = np.logaddexp(0, layer.linear(x, "linear_dt") + layer.get("dt_bias"))
    kept = np.exp(-np.exp(layer.get("a_log")) * step)
    state, out = layer.past["state"].copy(), np.empty_like(values)
    for t in range(tokens):
        state *= kept[t, :, None, None]
        state += b[t, :, :, None] * (step[t, :, None] * values[t])[:, None]
        out[t] = np.einsum("hkv,hk->hv", state, c[t])
    out += layer.get("d_skip")[:, None] * values
    gated = out.reshape(tokens, -1) * activate("silu", layer.linear(x, "linear_z"))
    by_group = gated.reshape(tokens, s.num_key_heads, -1)
    normed = rms_norm(by_group, np.ones(by_group.shape[-1], np.float32), layer.eps).reshape(tokens, -1)
    return layer.linear(normed * layer.get("linear_norm"), "linear_o"), new | {"state": state}
