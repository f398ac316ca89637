"""MLA over what it keeps compressed: queries are brought to the compressed space, sums brought back. A `Mixer`."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

from edge_runtime.backends.cuda.trunk.buffers import POSITION
from edge_runtime.backends.cuda.trunk.graph_weights import GraphWeights
from edge_runtime.backends.cuda.trunk.launches import DeviceMatrix
from edge_runtime.backends.cuda.trunk.mixers.base import OUT, Place
from edge_runtime.backends.cuda.trunk.structures import (
    MOST_HEAD_DIM,
    MOST_WIDE,
    READ_AT_ONCE,
    attend_latent,
    make_latent,
)
from edge_runtime.base.spec import LatentAttention


@dataclass(frozen=True)
class LatentWeights:
    """Matrices and addresses of norms.

    Attributes:
        q_a: compresses queries, with the norm behind it; None: nothing does.
        q: queries of a token.
        kv_a: what is kept of it.
        kv_norm: float32 [R].
        k_up: of each head, [R, nope_dim].
        v_up: of each head, [value_dim, R].
        o: of the output.
    """

    q_a: tuple[DeviceMatrix, int] | None
    q: DeviceMatrix
    kv_a: DeviceMatrix
    kv_norm: int
    k_up: DeviceMatrix
    v_up: DeviceMatrix
    o: DeviceMatrix


def problems(attention: LatentAttention) -> Iterator[str]:
    """See `Mixer.problems`."""
    a = attention
    if a.kv_rank + a.rope_dim > MOST_WIDE:
        yield f"{a.kv_rank} + {a.rope_dim} numbers kept of a token, at most {MOST_WIDE}"
    if a.rope_dim > MOST_HEAD_DIM:
        yield f"{a.rope_dim} rotated numbers, at most {MOST_HEAD_DIM}"
    if (a.nope_dim + a.rope_dim) % READ_AT_ONCE:
        yield f"heads of {a.nope_dim} + {a.rope_dim} numbers, expected a multiple of {READ_AT_ONCE}"


def inputs(attention: LatentAttention) -> list[int]:
    """See `Mixer.inputs`."""
    a = attention
    return [*([] if a.query_rank is None else [a.query_rank]), a.nope_dim, a.kv_rank, a.num_heads * a.value_dim]


def widths(attention: LatentAttention, hidden: int) -> dict[str, int]:
    """See `Mixer.widths`."""
    a, kept = attention, attention.kv_rank + attention.rope_dim
    return {
        "q": a.num_heads * (a.nope_dim + a.rope_dim), "q_low": a.query_rank or 0, "low": kept,
        "queries": a.num_heads * kept, "seen": a.num_heads * a.kv_rank, OUT: a.num_heads * a.value_dim,
    }  # fmt: skip


def load(g: GraphWeights, prefix: str, attention: LatentAttention, hidden: int) -> LatentWeights:
    """See `Mixer.load`."""
    a, p, rank = attention, prefix, attention.query_rank

    def bias(name: str) -> str:
        return f"{p}{name}_bias" if a.bias else ""

    width, heads = a.num_heads * (a.nope_dim + a.rope_dim), range(a.num_heads)
    low = (
        None if rank is None else (g.matrix(f"{p}q_a", rank, hidden, bias=bias("q_a")), g.vector(f"{p}q_a_norm", rank))
    )
    return LatentWeights(
        q_a=low,
        q=g.matrix(f"{p}q", width, hidden) if rank is None else g.matrix(f"{p}q_b", width, rank),
        kv_a=g.matrix(f"{p}kv_a", a.kv_rank + a.rope_dim, hidden, bias=bias("kv_a")),
        kv_norm=g.vector(f"{p}kv_a_norm", a.kv_rank),
        k_up=g.matrices([f"{p}k_up_{i}" for i in heads], a.kv_rank, a.nope_dim),
        v_up=g.matrices([f"{p}v_up_{i}" for i in heads], a.value_dim, a.kv_rank),
        o=g.matrix(f"{p}o", hidden, a.num_heads * a.value_dim, bias=bias("o")),
    )


def run(attention: LatentAttention, weights: LatentWeights, place: Place) -> None:
    """See `Mixer.run`."""
    a, w, launches, at, tokens = attention, weights, place.launches, place.at, place.tokens
    eps, kept, head = a.norm_eps or place.eps, a.kv_rank + a.rope_dim, a.nope_dim + a.rope_dim
    if w.q_a is None:
        place.linear("normed", w.q, "q")
    else:
        matrix, norm = w.q_a
        place.linear("normed", matrix, "q_low")
        launches.norm_part(at.at("q_low"), norm, (tokens, matrix.outputs, matrix.outputs), eps)
        place.linear("q_low", w.q, "q")
    place.linear("normed", w.kv_a, "low")
    launches.norm_part(at.at("low"), w.kv_norm, (tokens, a.kv_rank, kept), eps)
    rows, steps = (a.num_heads * head, a.num_heads * kept), (head, kept)
    launches.linear(at.at("q"), w.k_up, at.at("queries"), tokens, rows=rows, steps=steps)
    _place(a, place)
    ((cache, *_),) = place.kv.arrays(place.layer_idx)
    read = at.at("queries"), cache, cache, 0, at.at(POSITION), at.at("seen")
    launches.attend(read, attend_latent(a, place.kv.context), tokens)
    rows, steps = (a.num_heads * a.kv_rank, a.num_heads * a.value_dim), (a.kv_rank, a.value_dim)
    launches.linear(at.at("seen"), w.v_up, at.at(OUT), tokens, rows=rows, steps=steps)


def _place(a: LatentAttention, place: Place) -> None:
    """Rotate, and put what is kept into the cache."""
    at, ((cache, *_),) = place.at, place.kv.arrays(place.layer_idx)
    addresses = at.at("q"), at.at("low"), *place.angles, at.at(POSITION), at.at("queries"), cache
    grid = a.num_heads + 1, place.tokens
    place.launches.launch("hb_place_latent", grid, 32, *map(ctypes.c_uint64, addresses), make_latent(a))
