"""Softmax attention over cached and new tokens, all of them or those of a window. Implements `Mixer`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_runtime.backends.cuda.trunk.buffers import POSITION
from edge_runtime.backends.cuda.trunk.graph_weights import GraphWeights
from edge_runtime.backends.cuda.trunk.launches import AttentionAt, DeviceMatrix
from edge_runtime.backends.cuda.trunk.mixers.base import OUT, Place
from edge_runtime.backends.cuda.trunk.structures import MOST_HEAD_DIM, make_attend, make_heads, row_heads
from edge_runtime.base.spec import SoftmaxAttention


@dataclass(frozen=True)
class SoftmaxWeights:
    """Norms and sinks are addresses, 0 where there are none.

    Attributes:
        qkv: queries, keys, values and gates of a token.
        full_norms: of all queries and of all keys.
        head_norms: of each query and key head, float32 [H + G, C].
        sinks: float32 [H].
        o: of the output.
    """

    qkv: DeviceMatrix
    full_norms: tuple[int, int]
    head_norms: int
    sinks: int
    o: DeviceMatrix


def problems(attention: SoftmaxAttention) -> Iterator[str]:
    """See `Mixer.problems`."""
    if attention.head_dim > MOST_HEAD_DIM:
        yield f"heads of {attention.head_dim} numbers, at most {MOST_HEAD_DIM}"
    if attention.shared_kv and attention.qk_norm == "full":
        yield "values that are keys before a norm of their full width"


def inputs(attention: SoftmaxAttention) -> list[int]:
    """See `Mixer.inputs`."""
    return [attention.num_heads * attention.head_dim]


def widths(attention: SoftmaxAttention, hidden: int) -> dict[str, int]:
    """See `Mixer.widths`."""
    s = attention
    return {"qkv": row_heads(s) * s.head_dim, OUT: s.num_heads * s.head_dim}


def load(g: GraphWeights, prefix: str, attention: SoftmaxAttention, hidden: int) -> SoftmaxWeights:
    """See `Mixer.load`."""
    s, p = attention, prefix
    q, k = s.num_heads * s.head_dim, s.num_kv_heads * s.head_dim
    label = "qk" if s.shared_kv else "qkv"
    bias = f"{p}{label}{'q_gate' if s.output_gate else ''}_bias" if s.qkv_bias else ""
    full, by_head = s.qk_norm == "full", s.qk_norm in ("per_head", "per_head_rotated")
    return SoftmaxWeights(
        qkv=g.matrix(f"{p}{label}", row_heads(s) * s.head_dim, hidden, bias=bias),
        full_norms=(g.vector(f"{p}q_norm", q), g.vector(f"{p}k_norm", k)) if full else (0, 0),
        head_norms=g.vector(f"{p}qk_norm", q + k) if by_head else 0,
        sinks=g.vector(f"{p}sinks", s.num_heads) if s.sinks else 0,
        o=g.matrix(f"{p}o", hidden, q, bias=f"{p}o_bias" if s.o_bias else ""),
    )


def run(attention: SoftmaxAttention, weights: SoftmaxWeights, place: Place) -> None:
    """See `Mixer.run`."""
    s, w, qkv = attention, weights, place.at.at("qkv")
    place.linear("normed", w.qkv, "qkv")
    if s.qk_norm == "full":
        q, k, row = s.num_heads * s.head_dim, s.num_kv_heads * s.head_dim, row_heads(s) * s.head_dim
        place.launches.norm_part(qkv, w.full_norms[0], (place.tokens, q, row), place.eps)
        place.launches.norm_part(qkv + 4 * q, w.full_norms[1], (place.tokens, k, row), place.eps)
    past, (keys, values) = place.at.at(POSITION), place.kv.of_layer(place.layer_idx)
    where = AttentionAt(qkv, w.head_norms, *place.angles, past, keys, values, w.sinks, place.at.at(OUT))
    context = place.kv.context
    place.launches.attention(where, make_heads(s, context, place.eps), make_attend(s, context), place.tokens)
