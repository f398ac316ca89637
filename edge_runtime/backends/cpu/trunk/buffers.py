"""Static arrays a trunk's graphs read and write, sized once for the largest chunk."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np

from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import ModelSpec, StateArray, rope_of


class ChunkViews(NamedTuple):
    """Views of the buffers for chunks of T tokens, all float32.

    Attributes:
        resid: two arrays [T, D]: layer i reads number i % 2 and writes the other.
        expert_out: [T, D], combined expert output that a layer adds first.
        x: [T, D].
        router_logits: [T, E].
        y: [T, D], output of a shared expert, or of a network in parallel: the next layer reads it.
        router_x: [T, D], what the router sees; [T, 0] where that is x.
        angles: cos and sin [T, R/2] of each distinct rope.
        new: of each layer the chunk's part [1, G, T, C] of its growing arrays; layers share the memory.
    """

    resid: tuple[F32, F32]
    expert_out: F32
    x: F32
    router_logits: F32
    y: F32
    router_x: F32
    angles: list[tuple[F32, F32]]
    new: list[list[F32]]


class ChunkBuffers:
    """Flat float32 arrays, whose front is shaped for a chunk without a copy."""

    def __init__(self, spec: ModelSpec, max_chunk: int) -> None:
        """Allocate for chunks of at most `max_chunk` tokens."""
        self._growing = [growing_arrays(spec, i) for i in range(spec.num_layers)]
        angles = [rope.dim // 2 for rope in spec.ropes for _ in range(2)]
        self._widths = [*[spec.hidden] * 4, spec.num_experts, spec.hidden, _router_width(spec), *angles]
        self._flat = [np.zeros(max_chunk * width, np.float32) for width in self._widths]
        self._new = [np.zeros(max_chunk * width, np.float32) for width in new_widths(spec)]

    def views(self, tokens: int) -> ChunkViews:
        """Return the views for chunks of `tokens` tokens."""
        arrays = [
            flat[: tokens * width].reshape(tokens, width) for flat, width in zip(self._flat, self._widths, strict=True)
        ]
        angles = list(zip(arrays[7::2], arrays[8::2], strict=True))
        new = [[_new_view(f, a, tokens) for f, a in zip(self._new, arrays, strict=False)] for arrays in self._growing]
        return ChunkViews((arrays[0], arrays[1]), arrays[2], arrays[3], arrays[4], arrays[5], arrays[6], angles, new)


def growing_arrays(spec: ModelSpec, layer_idx: int) -> list[StateArray]:
    """Return the arrays of a layer that grow with the tokens."""
    return [array for array in spec.state_of(layer_idx) if array.grows]


def new_widths(spec: ModelSpec) -> list[int]:
    """Numbers a token adds to the first, second, ... growing array of a layer, of the widest layer each."""
    widths: list[int] = []
    for i in range(spec.num_layers):
        for number, array in enumerate(growing_arrays(spec, i)):
            widths[number : number + 1] = [max([array.numbers, *widths[number : number + 1]])]
    return widths


def static_width(spec: ModelSpec) -> int:
    """Numbers the buffers have for each token."""
    streams = 5 * spec.hidden + _router_width(spec) + spec.num_experts
    return streams + sum(rope.dim for rope in spec.ropes) + sum(new_widths(spec))


def rope_numbers(spec: ModelSpec) -> list[int | None]:
    """Which of the distinct ropes each layer has."""
    ropes = spec.ropes
    return [None if (rope := rope_of(layer.attention)) is None else ropes.index(rope) for layer in spec.layers]


def _router_width(spec: ModelSpec) -> int:
    """Numbers a token hands to a router that does not see what experts see."""
    return 0 if spec.router.norm_scale is None else spec.hidden


def _new_view(flat: F32, array: StateArray, tokens: int) -> F32:
    heads, width = array.shape
    return flat[: tokens * prod(array.shape)].reshape(1, heads, tokens, width)
