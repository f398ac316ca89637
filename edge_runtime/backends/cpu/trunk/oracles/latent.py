"""MLA (DeepSeek-V2, arXiv 2405.04434): keys and values are kept compressed, and never expanded.

A token is kept as c, its normed compressed state of `kv_rank` numbers, beside one rotated key of `rope_dim` numbers for
all heads. Queries are brought to the compressed space (W_k absorbed), sums over tokens brought back from it (W_v):
(W_k c) . q = c . (W_k^T q), and sum p W_v c = W_v sum p c. See docs/adr/0093-mla-keeps-what-it-compresses.md.
"""

from __future__ import annotations

import numpy as np

from edge_runtime.backends.cpu.trunk.oracles.base import Growth, LayerRun, Shapes, rms_norm
from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import LatentAttention

MAX_TOKENS: int | None = None
TABLES: tuple[str, ...] = ()


def problem(attention: LatentAttention) -> str | None:
    """See `Mixer.problem`."""
    return None


def weight_shapes(attention: LatentAttention, hidden: int) -> Shapes:
    """See `Mixer.weight_shapes`.

    With R the `kv_rank`: k_up holds W_k^T of every head, [H * R, nope_dim], v_up W_v, [H * value_dim, R]. Of a head's
    rows of q (or q_b), and of kv_a, the rotated ones come last, as two halves.
    """
    a, heads = attention, attention.num_heads
    width = heads * (a.nope_dim + a.rope_dim)
    shapes: Shapes = {
        "kv_a": (a.kv_rank + a.rope_dim, hidden), "kv_a_norm": (a.kv_rank,), "k_up": (heads * a.kv_rank, a.nope_dim),
        "v_up": (heads * a.value_dim, a.kv_rank), "o": (hidden, heads * a.value_dim),
    }  # fmt: skip
    if a.query_rank is None:
        shapes["q"] = (width, hidden)
    else:
        shapes |= {"q_a": (a.query_rank, hidden), "q_a_norm": (a.query_rank,), "q_b": (width, a.query_rank)}
    if a.bias:
        shapes |= {"kv_a_bias": (a.kv_rank + a.rope_dim,), "o_bias": (hidden,)}
    if a.bias and a.query_rank is not None:
        shapes["q_a_bias"] = (a.query_rank,)
    return shapes


def growth(attention: LatentAttention, hidden: int) -> Growth:
    """See `Mixer.growth`."""
    a = attention
    kept = a.kv_rank + a.rope_dim
    token = max(a.num_heads * max(kept, a.nope_dim + a.rope_dim, a.value_dim), a.query_rank or 0)
    return Growth(token, a.num_heads, kept)


def run(layer: LayerRun, x: F32) -> tuple[F32, dict[str, F32]]:
    """See `Mixer.run`."""
    a = layer.attention
    queries, new = _queries(layer, x), _compressed(layer, x)
    kept = np.concatenate((layer.past["latent"][0], new))
    assert layer.mask is not None
    scores = queries @ kept.T * np.float32(a.score_scale) + layer.mask
    probs = np.exp(scores - scores.max(-1, keepdims=True))
    seen = (probs / probs.sum(-1, keepdims=True)) @ kept[:, : a.kv_rank]
    values = seen @ layer.get("v_up").reshape(a.num_heads, a.value_dim, a.kv_rank).transpose(0, 2, 1)
    out = layer.linear(values.transpose(1, 0, 2).reshape(len(x), -1), "o")
    return (out + layer.get("o_bias") if a.bias else out), {"latent": new[None]}


def _queries(layer: LayerRun, x: F32) -> F32:
    """Return queries in the compressed space, and their rotated part, [H, T, R + rope_dim]."""
    a = layer.attention
    flat = layer.linear(x, "q") if a.query_rank is None else layer.linear(_compressed_queries(layer, x), "q_b")
    by_head = flat.reshape(len(x), a.num_heads, -1).transpose(1, 0, 2)
    absorbed = by_head[..., : a.nope_dim] @ layer.get("k_up").reshape(a.num_heads, a.kv_rank, -1).transpose(0, 2, 1)
    return np.concatenate((absorbed, layer.rotate(by_head[..., a.nope_dim :])), -1)


def _compressed_queries(layer: LayerRun, x: F32) -> F32:
    low = layer.linear(x, "q_a")
    return _norm(layer, low + layer.get("q_a_bias") if layer.attention.bias else low, "q_a_norm")


def _compressed(layer: LayerRun, x: F32) -> F32:
    """Return what is kept of each token, [T, R + rope_dim]."""
    rank = layer.attention.kv_rank
    low = layer.linear(x, "kv_a")
    low = low + layer.get("kv_a_bias") if layer.attention.bias else low
    return np.concatenate((_norm(layer, low[:, :rank], "kv_a_norm"), layer.rotate(low[:, rank:])), -1)


def _norm(layer: LayerRun, x: F32, name: str) -> F32:
    return rms_norm(x, layer.get(name), layer.attention.norm_eps or layer.eps)
