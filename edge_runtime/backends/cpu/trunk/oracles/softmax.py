"""Softmax attention over cached and new tokens, all of them or those of a window."""

from __future__ import annotations

import numpy as np

from edge_runtime.backends.cpu.activation import sigmoid
from edge_runtime.backends.cpu.trunk.oracles.base import Growth, LayerRun, Shapes, rms_norm
from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import SoftmaxAttention

MAX_TOKENS: int | None = None
TABLES: tuple[str, ...] = ()


def problem(attention: SoftmaxAttention) -> str | None:
    """See `Mixer.problem`."""
    return None


def weight_shapes(attention: SoftmaxAttention, hidden: int) -> Shapes:
    """See `Mixer.weight_shapes`; q_norm and k_norm are [C], or the full width, sinks [H]."""
    c = attention.head_dim
    q_width, kv_width = attention.num_heads * c, attention.num_kv_heads * c
    rows = {"q": q_width, "k": kv_width} | ({} if attention.shared_kv else {"v": kv_width})
    rows |= {"q_gate": q_width} if attention.output_gate else {}
    shapes: Shapes = {**{name: (width, hidden) for name, width in rows.items()}, "o": (hidden, q_width)}
    if attention.qkv_bias:
        shapes |= {f"{name}_bias": (width,) for name, width in rows.items()}
    if attention.o_bias:
        shapes["o_bias"] = (hidden,)
    if attention.sinks:
        shapes["sinks"] = (attention.num_heads,)
    if attention.qk_norm != "none":
        full = attention.qk_norm == "full"
        shapes |= {"q_norm": (q_width if full else c,), "k_norm": (kv_width if full else c,)}
    return shapes


def growth(attention: SoftmaxAttention, hidden: int) -> Growth:
    """See `Mixer.growth`."""
    heads = (1 + attention.output_gate) * attention.num_heads + 2 * attention.num_kv_heads
    cached = attention.num_kv_heads * attention.head_dim
    return Growth(heads * attention.head_dim, attention.num_heads, cached, beside=int(attention.sinks))


def run(layer: LayerRun, x: F32) -> tuple[F32, dict[str, F32]]:
    """See `Mixer.run`."""
    s = layer.attention
    q, k, v = _project(layer, x)
    q, k = layer.rotate(q), layer.rotate(k)
    if s.qk_norm == "per_head_rotated":
        q, k = layer.norm(q, "q_norm"), layer.norm(k, "k_norm")
    keys, values = np.concatenate((layer.past["k"], k), 1), np.concatenate((layer.past["v"], v), 1)
    group = s.num_heads // s.num_kv_heads
    assert layer.mask is not None
    scores = q @ np.repeat(keys, group, 0).transpose(0, 2, 1) * np.float32(s.score_scale) + layer.mask
    if s.sinks:
        sinks = layer.get("sinks")[:, None, None]
        scores = np.concatenate((scores, np.broadcast_to(sinks, (*scores.shape[:2], 1))), -1)
    probs = np.exp(scores - scores.max(-1, keepdims=True))
    probs = (probs / probs.sum(-1, keepdims=True))[..., : keys.shape[1]]
    out = probs @ np.repeat(values, group, 0)
    out = out.transpose(1, 0, 2).reshape(len(x), -1)
    if s.output_gate:
        gate = layer.linear(x, "q_gate")
        out = out * sigmoid(gate + layer.get("q_gate_bias") if s.qkv_bias else gate)
    out = layer.linear(out, "o")
    return (out + layer.get("o_bias") if s.o_bias else out), {"k": k, "v": v}


def _project(layer: LayerRun, x: F32) -> tuple[F32, F32, F32]:
    """Return q [H, T, C], k and v [G, T, C] before rotation."""
    s = layer.attention
    flat = {name: layer.linear(x, name) for name in ("qk" if s.shared_kv else "qkv")}
    if s.qkv_bias:
        flat = {name: part + layer.get(f"{name}_bias") for name, part in flat.items()}
    flat.setdefault("v", flat["k"])
    if s.qk_norm == "full":
        flat |= {name: layer.norm(flat[name], f"{name}_norm") for name in "qk"}
    if s.clip_qkv is not None:
        flat = {name: np.clip(part, -s.clip_qkv, s.clip_qkv) for name, part in flat.items()}
    heads = {name: part.reshape(len(x), -1, s.head_dim).transpose(1, 0, 2) for name, part in flat.items()}
    if s.qk_norm == "per_head":
        heads |= {name: layer.norm(heads[name], f"{name}_norm") for name in "qk"}
    if s.value_norm:
        heads["v"] = rms_norm(heads["v"], np.float32(1), layer.eps)
    return heads["q"], heads["k"], heads["v"]
