"""The launch of a causal convolution, which recurrences and short convolutions begin with."""

from __future__ import annotations

import ctypes

from edge_runtime.backends.cuda.trunk.buffers import PASSAGE_AT
from edge_runtime.backends.cuda.trunk.mixers.base import Place
from edge_runtime.backends.cuda.trunk.structures import MOST_STOPS, Taps

_WIDE = 256


def convolve(place: Place, x: str, taps: tuple[int, int], bias: int, out: str, how: Taps) -> None:
    """Convolve a buffer, and hand over what later chunks need.

    Args:
        place: where the layer works; what it keeps begins with the inputs of the convolution, unless it has one tap.
        x: buffer of the inputs.
        taps: address of the first of the taps, and how many numbers lie from one to the next.
        bias: address, or 0.
        out: buffer of the outputs.
        how: sizes; tokens and slot are filled in.
    """
    states = place.kv.fixed(place.layer_idx)[0]
    how.tokens, how.slot = place.tokens, place.kv.slot_numbers
    grid = -(-how.channels // _WIDE), place.tokens + MOST_STOPS * (how.kernel - 1)
    read = ctypes.c_uint64(place.at.at(x)), ctypes.c_uint64(taps[0]), ctypes.c_uint32(taps[1])
    rest = map(ctypes.c_uint64, (bias, states, place.at.at(PASSAGE_AT), place.at.at(out)))
    place.launches.launch("hb_convolve", grid, _WIDE, *read, *rest, how)
