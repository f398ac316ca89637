"""Device memory of a chunk in progress, cut for so many tokens."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edge_runtime.backends.cuda.driver import DeviceMemory, Stream
from edge_runtime.base.sizes import align_up

_ALIGN = 256
POSITION = "past"
"""One int32: tokens in the cache before the chunk."""
PASSAGE_AT, _PASSAGE_OFFSET = "passage", 64
"""One `structures.PASSAGE`: where states of fixed size come from and go to."""


def buffer_bytes(widths: Mapping[str, int], tokens: int) -> int:
    """Return what the buffers of a chunk of so many tokens take."""
    return _ALIGN + sum(align_up(4 * width * tokens, _ALIGN) for width in widths.values())


class TokenBuffers:
    """Buffers for chunks of up to `tokens` tokens; the memory goes with the last reference.

    Args:
        stream: orders what is written.
        widths: float32 numbers a token has in each buffer, by name.
        tokens: most of a chunk.

    Raises:
        CudaMemoryError: the GPU has no room.
    """

    def __init__(self, stream: Stream, widths: Mapping[str, int], tokens: int) -> None:
        self._stream, self.tokens = stream, tokens
        self._memory = DeviceMemory(stream.device, buffer_bytes(widths, tokens))
        self._offsets, at = {POSITION: 0, PASSAGE_AT: _PASSAGE_OFFSET}, _ALIGN
        for name, width in widths.items():
            self._offsets[name] = at
            at += align_up(4 * width * tokens, _ALIGN)

    def at(self, name: str) -> int:
        """Return the address of a buffer."""
        return self._memory.address + self._offsets[name]

    def write(self, name: str, array: np.ndarray) -> None:
        """Copy numbers of the host, which have been read when this returns."""
        self._memory.write(np.ascontiguousarray(array), self._stream, self._offsets[name])

    def close(self) -> None:
        """Give the memory back. Safe to call twice."""
        self._memory.close()

    def __del__(self) -> None:
        if hasattr(self, "_memory"):
            self._memory.close()
