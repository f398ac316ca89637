"""Kimi Delta Attention (Kimi Linear, arXiv 2510.26692): Gated DeltaNet that forgets each number of a key by itself.

A head's state S [key_dim, value_dim] changes with every token, from its normed key k and query q, its value v, what it
forgets exp(g) [key_dim] and its learning rate b:

    S <- exp(g) * S (row by row);  S <- S + k (b (v - S^T k))^T;  output S^T q
"""

from __future__ import annotations

import numpy as np

from edge_runtime.backends.cpu.activation import activate, sigmoid
from edge_runtime.backends.cpu.trunk.oracles.base import Growth, LayerRun, Shapes, causal_taps, rms_norm
from edge_runtime.backends.cpu.trunk.oracles.gated_delta import L2_EPS
from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import LinearAttention, conv_channels

MAX_TOKENS: int | None = 16
"""A graph holds key_dim numbers for each pair of tokens and head: a longer block would need megabytes more."""
TABLES: tuple[str, ...] = ("causal", "levels")


def problem(attention: LinearAttention) -> str | None:
    """See `Mixer.problem`."""
    if attention.conv_bias:
        return "Kimi Delta Attention with a bias of its convolution"
    alike = (attention.num_key_heads, attention.key_dim) == (attention.num_value_heads, attention.value_dim)
    return None if alike else "Kimi Delta Attention whose keys and values differ in number or width"


def weight_shapes(attention: LinearAttention, hidden: int) -> Shapes:
    """See `Mixer.weight_shapes`; f_a and f_b make what forgets, z_a and z_b gate the output."""
    heads, size = attention.num_value_heads, attention.value_dim
    width = heads * size
    return {
        **{f"linear_{name}": (width, hidden) for name in "qkv"},
        **{f"conv_{name}": (width, 1, attention.kernel) for name in "qkv"},
        "linear_f_a": (size, hidden), "linear_f_b": (width, size), "a_log": (1, 1, heads, 1), "dt_bias": (width,),
        "linear_b": (heads, hidden), "linear_z_a": (size, hidden), "linear_z_b": (width, size),
        "linear_norm": (size,), "linear_o": (hidden, width),
    }  # fmt: skip


def growth(attention: LinearAttention, hidden: int) -> Growth:
    """See `Mixer.growth`."""
    channels, width = conv_channels(attention), attention.num_value_heads * attention.value_dim
    states = width * attention.key_dim
    return Growth(channels, width, fixed=max(states, (attention.kernel - 1) * channels))


def run(layer: LayerRun, x: F32) -> tuple[F32, dict[str, F32]]:
    """See `Mixer.run`."""
    s = layer.attention
    flat = np.concatenate([layer.linear(x, f"linear_{name}") for name in "qkv"], -1)
    taps = np.concatenate([layer.get(f"conv_{name}")[:, 0] for name in "qkv"]).T
    mixed, new = causal_taps(layer, flat, taps)
    q, k, v = (part.reshape(len(x), -1, s.key_dim) for part in np.split(activate("silu", mixed), 3, -1))
    q, k = (part / np.sqrt((part * part).sum(-1, keepdims=True) + np.float32(L2_EPS)) for part in (q, k))
    q = q * np.float32(s.key_dim**-0.5)
    rate = sigmoid(layer.linear(x, "linear_b"))
    step = np.logaddexp(0, layer.linear(layer.linear(x, "linear_f_a"), "linear_f_b") + layer.get("dt_bias"))
    kept = np.exp(-np.exp(layer.get("a_log")[0]) * step.reshape(len(x), -1, s.key_dim))
    state, out = layer.past["state"].copy(), np.empty_like(v)
    for t in range(len(x)):
        state *= kept[t, :, :, None]
        change = rate[t, :, None] * (v[t] - np.einsum("hkv,hk->hv", state, k[t]))
        state += k[t, :, :, None] * change[:, None]
        out[t] = np.einsum("hkv,hk->hv", state, q[t])
    gate = sigmoid(layer.linear(layer.linear(x, "linear_z_a"), "linear_z_b"))
    normed = rms_norm(out, layer.get("linear_norm"), layer.eps).reshape(len(x), -1)
    return layer.linear(normed * gate, "linear_o"), new | {"state": state}
