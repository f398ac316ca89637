"""Gated DeltaNet: a recurrence whose state forgets by a gate and corrects what a key stands for.

A head's state S [key_dim, value_dim] changes with every token, from its normed key k and query q, its value v, the
share it forgets exp(g) and its learning rate b (Yang, Kautz, Hatamizadeh: Gated Delta Networks, 2412.06464):

    S <- exp(g) S;  S <- S + k (b (v - S^T k))^T;  output S^T q
"""

from __future__ import annotations

import numpy as np

from edge_runtime.backends.cpu.activation import activate, sigmoid
from edge_runtime.backends.cpu.trunk.oracles.base import Growth, LayerRun, Shapes, causal_taps, rms_norm
from edge_runtime.backends.cpu.trunk.tables import MAX_BLOCK
from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import LinearAttention, conv_channels

MAX_TOKENS: int | None = MAX_BLOCK
TABLES: tuple[str, ...] = ("causal", "levels")
L2_EPS = 1e-6
"""Of the norm of queries and keys, by the sum of squares."""
_MOST_VALUES_A_KEY = 32


def problem(attention: LinearAttention) -> str | None:
    """See `Mixer.problem`."""
    if attention.conv_bias:
        return "Gated DeltaNet with a bias of its convolution"
    if attention.num_value_heads > _MOST_VALUES_A_KEY * attention.num_key_heads:
        return f"Gated DeltaNet with more than {_MOST_VALUES_A_KEY} value heads for a key head"
    return None


def weight_shapes(attention: LinearAttention, hidden: int) -> Shapes:
    """See `Mixer.weight_shapes`; z gates the output, a and b are those of each head's gate and learning rate."""
    heads, width = attention.num_value_heads, attention.num_value_heads * attention.value_dim
    keys = attention.num_key_heads * attention.key_dim
    return {
        "linear_q": (keys, hidden), "linear_k": (keys, hidden), "linear_v": (width, hidden),
        "linear_z": (width, hidden), "linear_b": (heads, hidden), "linear_a": (heads, hidden),
        "conv": (conv_channels(attention), 1, attention.kernel), "a_log": (heads,), "dt_bias": (heads,),
        "linear_norm": (attention.value_dim,), "linear_o": (hidden, width),
    }  # fmt: skip


def growth(attention: LinearAttention, hidden: int) -> Growth:
    """See `Mixer.growth`."""
    s, channels = attention, conv_channels(attention)
    joint = channels + s.num_value_heads * s.value_dim
    widest = max(joint, 2 * s.num_value_heads * max(s.key_dim, s.value_dim))
    states = s.num_value_heads * s.key_dim * s.value_dim
    return Growth(widest, 2 * s.num_value_heads, fixed=max(states, (s.kernel - 1) * channels))


def run(layer: LayerRun, x: F32) -> tuple[F32, dict[str, F32]]:
    """See `Mixer.run`."""
    s = layer.attention
    flat = np.concatenate([layer.linear(x, f"linear_{name}") for name in "qkv"], -1)
    mixed, new = causal_taps(layer, flat, layer.get("conv")[:, 0].T)
    keys = s.num_key_heads * s.key_dim
    q, k, v = np.split(activate("silu", mixed), (keys, 2 * keys), -1)
    group = s.num_value_heads // s.num_key_heads
    q, k = (_l2_norm(part.reshape(len(x), -1, s.key_dim)).repeat(group, 1) for part in (q, k))
    q = q * np.float32(s.key_dim**-0.5)
    v = v.reshape(len(x), -1, s.value_dim)
    rate = sigmoid(layer.linear(x, "linear_b"))
    kept = np.exp(-np.exp(layer.get("a_log")) * np.logaddexp(0, layer.linear(x, "linear_a") + layer.get("dt_bias")))
    state, out = layer.past["state"].copy(), np.empty_like(v)
    for t in range(len(x)):
        state *= kept[t, :, None, None]
        change = rate[t, :, None] * (v[t] - np.einsum("hkv,hk->hv", state, k[t]))
        state += k[t, :, :, None] * change[:, None]
        out[t] = np.einsum("hkv,hk->hv", state, q[t])
    gate = activate("silu", layer.linear(x, "linear_z"))
    normed = rms_norm(out, layer.get("linear_norm"), layer.eps).reshape(len(x), -1)
    return layer.linear(normed * gate, "linear_o"), new | {"state": state}


def _l2_norm(x: F32) -> F32:
    normed: F32 = x / np.sqrt((x * x).sum(-1, keepdims=True) + np.float32(L2_EPS))
    return normed
