"""Keys and values of one sequence on the GPU. Implements `KVCache`."""

from __future__ import annotations

from collections.abc import Iterable

from edge_runtime.backends.cuda.driver import DeviceMemory, Stream
from edge_runtime.backends.trunk import KVCache
from edge_runtime.base.errors import RequestError
from edge_runtime.base.spec import ModelSpec


class CudaKVCache:
    """Float32 keys and values [G, N, C] of every layer, in one allocation that goes with the last reference.

    Slots from `length` on hold anything: no kernel reads them. What a chunk writes counts once it was committed.

    Args:
        stream: orders copies behind the kernels that write.
        spec: the model; every layer has softmax attention.
        context: N.

    Raises:
        RequestError: no tokens are asked for.
        CudaMemoryError: the GPU has no room.
    """

    def __init__(self, stream: Stream, spec: ModelSpec, context: int) -> None:
        if context < 1:
            raise RequestError(f"context: expected at least 1 token, got {context}")
        self._stream, self.context, self.length = stream, context, 0
        self._arrays: list[list[tuple[int, int, int]]] = []  # by layer: address, heads and bytes of a head's slot
        widths = [[array.shape for array in spec.state_of(i)] for i in range(spec.num_layers)]
        self._memory = DeviceMemory(stream.device, 4 * context * sum(g * c for layer in widths for g, c in layer))
        at = self._memory.address
        for layer in widths:
            self._arrays.append([])
            for heads, dim in layer:
                self._arrays[-1].append((at, heads, 4 * dim))
                at += 4 * heads * context * dim

    def close(self) -> None:
        """Give the memory back. Safe to call twice."""
        self._memory.close()

    def __del__(self) -> None:
        if hasattr(self, "_memory"):
            self.close()

    @property
    def nbytes(self) -> int:
        """See `KVCache.nbytes`."""
        return self._memory.nbytes

    def of_layer(self, layer_idx: int) -> tuple[int, int]:
        """Return the addresses of a layer's keys and values."""
        (keys, *_), (values, *_) = self._arrays[layer_idx]
        return keys, values

    def reset(self) -> None:
        """See `KVCache.reset`."""
        self.length = 0

    def nearest(self, length: int) -> int:
        """See `KVCache.nearest`: it can be cut after any token."""
        return min(length, self.length)

    def want(self, lengths: Iterable[int]) -> None:
        """See `KVCache.want`: nothing needs to be remembered."""

    def truncate(self, length: int) -> None:
        """See `KVCache.truncate`."""
        if not 0 <= length <= self.length:
            raise RequestError(f"truncate: expected 0 to {self.length} tokens to keep, got {length}")
        self.length = length

    def copy_from(self, other: KVCache, length: int) -> None:
        """See `KVCache.copy_from`: in the order of the stream."""
        assert isinstance(other, CudaKVCache)
        if not 0 <= length <= other.length:
            raise RequestError(f"copy: expected 0 to {other.length} tokens, got {length}")
        self.length = 0
        if length:
            for mine, theirs in zip(self._arrays, other._arrays, strict=True):
                for (to, heads, slot), (source, *_) in zip(mine, theirs, strict=True):
                    self._copy(to, source, heads, slot, (other.context, length))
        self.length = length

    def _copy(self, to: int, source: int, heads: int, slot: int, tokens: tuple[int, int]) -> None:
        context, length = tokens
        for head in range(heads):
            target, origin = to + head * self.context * slot, source + head * context * slot
            self._stream.device.call("cuMemcpyDtoDAsync_v2", target, origin, length * slot, self._stream.handle)
