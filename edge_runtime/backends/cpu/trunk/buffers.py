"""Static arrays a trunk's graphs read and write, sized once for the largest chunk."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cpu.trunk.supported import rope_of
from edge_runtime.base.spec import ModelSpec

F32 = NDArray[np.float32]


class ChunkViews(NamedTuple):
    """Views of the buffers for chunks of T tokens, all float32.

    Attributes:
        resid: two arrays [T, D]: layer i reads number i % 2 and writes the other.
        moe: [T, D], combined expert output that a layer adds first.
        x: [T, D].
        router_logits: [T, E].
        y: [T, D], output of a shared expert.
        cos: [T, R/2].
        sin: [T, R/2].
        new_k: [1, G, T, C].
        new_v: [1, G, T, C].
    """

    resid: tuple[F32, F32]
    expert_out: F32
    x: F32
    router_logits: F32
    y: F32
    cos: F32
    sin: F32
    new_k: F32
    new_v: F32


class ChunkBuffers:
    """Flat float32 arrays, whose front is shaped for a chunk without a copy."""

    def __init__(self, spec: ModelSpec, max_chunk: int) -> None:
        """Allocate for chunks of at most `max_chunk` tokens."""
        d, half = (spec.hidden,), (rope_of(spec).dim // 2,)
        cache = (spec.attention.num_kv_heads, spec.attention.head_dim)
        self._widths: list[tuple[int, ...]] = [d, d, d, d, (spec.num_experts,), d, half, half, cache, cache]
        self._flat = [np.zeros(max_chunk * prod(width), np.float32) for width in self._widths]

    def views(self, tokens: int) -> ChunkViews:
        """Return the views for chunks of `tokens` tokens."""
        arrays = []
        for flat, width in zip(self._flat, self._widths, strict=True):
            shape = (tokens, *width) if len(width) == 1 else (1, width[0], tokens, width[1])
            arrays.append(flat[: tokens * prod(width)].reshape(shape))
        return ChunkViews((arrays[0], arrays[1]), *arrays[2:])
