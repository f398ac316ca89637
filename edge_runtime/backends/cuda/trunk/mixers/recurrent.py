"""Recurrences with a state of fixed size: Gated DeltaNet, Kimi Delta Attention, Mamba-2. Implements `Mixer`."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

from edge_runtime.backends.cuda.trunk.buffers import PASSAGE_AT
from edge_runtime.backends.cuda.trunk.graph_weights import GraphWeights
from edge_runtime.backends.cuda.trunk.launches import DeviceMatrix
from edge_runtime.backends.cuda.trunk.mixers.base import OUT, Place
from edge_runtime.backends.cuda.trunk.mixers.taps import convolve
from edge_runtime.backends.cuda.trunk.structures import MOST_KEY_DIM, Gated, Recurrence, RecurrenceAt, Taps
from edge_runtime.base.spec import LinearAttention, conv_channels

_COLUMNS, _STATE_THREADS, _WIDE = 32, 512, 256


@dataclass(frozen=True)
class RecurrentWeights:
    """Matrices and addresses of vectors, 0 where there is none.

    Attributes:
        products: by buffer what is multiplied by which matrix, in order: of `normed`, or of a buffer before.
        taps: of the convolution.
        conv_bias: of it.
        decay: what forgets, below 0: float32 [H], or [H, key_dim].
        dt_bias: the same shape.
        skip: float32 [H].
        norm: float32 [value_dim], or of the full width.
        o: of the output.
    """

    products: tuple[tuple[str, DeviceMatrix, str], ...]
    taps: tuple[int, int]
    conv_bias: int
    decay: int
    dt_bias: int
    skip: int
    norm: int
    o: DeviceMatrix


def problems(attention: LinearAttention) -> Iterator[str]:
    """See `Mixer.problems`."""
    if attention.key_dim > MOST_KEY_DIM:
        yield f"keys of {attention.key_dim} numbers, at most {MOST_KEY_DIM}"
    if attention.kernel == 1:
        yield "a convolution of one tap"


def inputs(attention: LinearAttention) -> list[int]:
    """See `Mixer.inputs`."""
    return [_width(attention), *([attention.value_dim] if attention.rule == "kimi_delta" else [])]


def widths(attention: LinearAttention, hidden: int) -> dict[str, int]:
    """See `Mixer.widths`."""
    s, width = attention, _width(attention)
    sizes = {"joint": conv_channels(s) + width, "mixed": conv_channels(s), "steps": 2 * s.num_value_heads, OUT: width}
    if s.rule == "kimi_delta":
        sizes |= {"joint": conv_channels(s), "through": s.value_dim, "forget": width, "z": width}
    return sizes


def load(g: GraphWeights, prefix: str, attention: LinearAttention, hidden: int) -> RecurrentWeights:
    """See `Mixer.load`."""
    s, p, width, heads = attention, prefix, _width(attention), attention.num_value_heads
    gates = heads * s.key_dim if s.rule == "kimi_delta" else heads
    return RecurrentWeights(
        products=tuple(
            (x, g.matrix(f"{p}{name}", outputs, inputs), y) for x, name, outputs, inputs, y in _products(s, hidden)
        ),
        taps=g.rows([f"{p}tap_{j}" for j in range(s.kernel)], conv_channels(s)),
        conv_bias=g.vector(f"{p}conv_bias", conv_channels(s)) if s.conv_bias else 0,
        decay=g.vector(f"{p}decay", gates),
        dt_bias=g.vector(f"{p}dt_bias", gates),
        skip=g.vector(f"{p}d_skip", heads) if s.rule == "mamba2" else 0,
        norm=g.vector(f"{p}linear_norm", width if s.rule == "mamba2" else s.value_dim),
        o=g.matrix(f"{p}linear_o", hidden, width),
    )


def _products(s: LinearAttention, hidden: int) -> list[tuple[str, str, int, int, str]]:
    """Buffer, matrix, outputs, inputs and buffer of each product before the recurrence."""
    width, heads, size = _width(s), s.num_value_heads, s.value_dim
    if s.rule == "gated_delta":
        joint = ("normed", "linear_qkvz", conv_channels(s) + width, hidden, "joint")
        return [joint, ("normed", "linear_ba", 2 * heads, hidden, "steps")]
    if s.rule == "mamba2":
        joint = ("normed", "linear_zxbc", width + conv_channels(s), hidden, "joint")
        return [joint, ("normed", "linear_dt", heads, hidden, "steps")]
    found = [("normed", "linear_qkv", 3 * width, hidden, "joint"), ("normed", "linear_b", heads, hidden, "steps")]
    for name, out in (("f", "forget"), ("z", "z")):
        found.append(("normed", f"linear_{name}_a", size, hidden, "through"))
        found.append(("through", f"linear_{name}_b", width, size, out))
    return found


def run(attention: LinearAttention, weights: RecurrentWeights, place: Place) -> None:
    """See `Mixer.run`."""
    s, w, channels = attention, weights, conv_channels(attention)
    for x, matrix, y in w.products:
        place.linear(x, matrix, y)
    row = w.products[0][1].outputs
    first = row - channels if s.rule == "mamba2" else 0  # z comes before what is convolved
    how = Taps(channels=channels, kernel=s.kernel, row=row, at=first, silu=1)
    convolve(place, "joint", w.taps, w.conv_bias, "mixed", how)
    _recur(s, w, place)
    _gate(s, w, place)


def _recur(s: LinearAttention, w: RecurrentWeights, place: Place) -> None:
    at, width, heads, keys = place.at, _width(s), s.num_value_heads, s.num_key_heads * s.key_dim
    _, states = place.kv.fixed(place.layer_idx)
    steps, gates = at.at("steps"), at.at("forget" if s.rule == "kimi_delta" else "steps")
    where = RecurrenceAt(at.at("mixed"), gates, steps, w.decay, w.dt_bias, w.skip, states, at.at(OUT))
    # Mamba-2 has x, B and C where the others have queries, keys and values; C reads as queries do
    q, k, v = (width + keys, width, 0) if s.rule == "mamba2" else (0, keys, 2 * keys)
    gate_row, gate, rate_row = {
        "gated_delta": (2 * heads, heads, 2 * heads), "kimi_delta": (width, 0, heads), "mamba2": (heads, 0, 0),
    }[s.rule]  # fmt: skip
    size = Recurrence(
        heads, s.num_key_heads, s.key_dim, s.value_dim, place.tokens, conv_channels(s), q, k, v, gate_row, gate,
        rate_row, place.kv.slot_numbers,
    )  # fmt: skip
    grid = heads, -(-s.value_dim // _COLUMNS)
    place.launches.launch(f"hb_recur_{s.rule}", grid, _STATE_THREADS, where, ctypes.c_uint64(at.at(PASSAGE_AT)), size)


def _gate(s: LinearAttention, w: RecurrentWeights, place: Place) -> None:
    """Norm the outputs and multiply them by a gate; Mamba-2 the other way round, and within each group of heads."""
    is_mamba, at, width = s.rule == "mamba2", place.at, _width(s)
    groups = s.num_key_heads if is_mamba else s.num_value_heads
    z, row, first = {
        "gated_delta": ("joint", conv_channels(s) + width, conv_channels(s)), "kimi_delta": ("z", width, 0),
        "mamba2": ("joint", conv_channels(s) + width, 0),
    }[s.rule]  # fmt: skip
    how = Gated(width // groups, groups, row, first, is_mamba, not is_mamba, s.rule != "kimi_delta", place.eps)
    addresses = map(ctypes.c_uint64, (at.at(OUT), at.at(z), w.norm))
    place.launches.launch("hb_gate_norm", (groups, place.tokens), _WIDE, *addresses, how)


def _width(s: LinearAttention) -> int:
    return s.num_value_heads * s.value_dim
