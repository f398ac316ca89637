"""What layers keep of one sequence on the GPU: keys and values, and states of fixed size. Implements `KVCache`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edge_runtime.backends.cpu.trunk.recurrent import SLOTS, StateMemory, StateSlots
from edge_runtime.backends.cuda.driver import DeviceMemory, Stream
from edge_runtime.backends.cuda.trunk.structures import PASSAGE
from edge_runtime.backends.trunk import KVCache
from edge_runtime.base.errors import RequestError
from edge_runtime.base.spec import ModelSpec


class _DeviceSlots:
    """Implements `StateMemory`: slots of float32 numbers side by side, from an address on."""

    def __init__(self, stream: Stream, address: int, numbers: int) -> None:
        self._stream, self.address, self.numbers = stream, address, numbers

    def zero(self, slot: int) -> None:
        """See `StateMemory.zero`."""
        if self.numbers:
            where = self.address + 4 * slot * self.numbers
            self._stream.device.call("cuMemsetD8Async", where, 0, 4 * self.numbers, self._stream.handle)

    def copy(self, slot: int, other: StateMemory, source: int) -> None:
        """See `StateMemory.copy`."""
        assert isinstance(other, _DeviceSlots)
        nbytes = 4 * self.numbers
        target, origin = self.address + slot * nbytes, other.address + source * nbytes
        self._stream.device.call("cuMemcpyDtoDAsync_v2", target, origin, nbytes, self._stream.handle)


class CudaKVCache:
    """What layers keep of each token, [G, N, C], and their states, in one allocation that goes with the last reference.

    Slots from `length` on hold anything: no kernel reads them. Engines read all slots and mask those; there a number
    that is not finite would show all the same, so they are zero. What a chunk writes counts once it was committed.

    Args:
        stream: orders copies behind the kernels that write.
        spec: the model.
        context: N.
        item_bytes: of a number: float32, or half precision.
        is_read_whole: slots from `length` on are read, and must be zero.

    Raises:
        RequestError: no tokens are asked for.
        CudaMemoryError: the GPU has no room.
    """

    def __init__(
        self, stream: Stream, spec: ModelSpec, context: int, *, item_bytes: int = 4, is_read_whole: bool = False
    ) -> None:  # fmt: skip
        if context < 1:
            raise RequestError(f"context: expected at least 1 token, got {context}")
        self._stream, self.context, self.length = stream, context, 0
        states = [spec.state_of(i) for i in range(spec.num_layers)]
        growing = item_bytes * context * sum(a.numbers for layer in states for a in layer if a.grows)
        self.slot_numbers = sum(a.numbers for layer in states for a in layer if not a.grows)
        self._memory = DeviceMemory(stream.device, growing + SLOTS * 4 * self.slot_numbers)
        self._arrays: list[list[tuple[int, int, int]]] = []  # by layer: address, heads and bytes of a head's slot
        self._fixed: list[list[int]] = []  # by layer: addresses in slot 0
        at, state_at = self._memory.address, self._memory.address + growing
        for layer in states:
            self._arrays.append([])
            self._fixed.append([])
            for array in layer:
                if not array.grows:
                    self._fixed[-1].append(state_at)
                    state_at += 4 * array.numbers
                    continue
                heads, dim = array.shape
                self._arrays[-1].append((at, heads, item_bytes * dim))
                at += item_bytes * heads * context * dim
        self._slots = _DeviceSlots(stream, self._memory.address + growing, self.slot_numbers)
        self._slots.zero(0)
        self._states = StateSlots(self.slot_numbers > 0, self._slots)
        self._is_read_whole = is_read_whole
        if is_read_whole:
            self._memory.fill(0, stream)

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
        """Return the addresses of a layer's keys and values, for softmax attention."""
        (keys, *_), (values, *_) = self._arrays[layer_idx]
        return keys, values

    def arrays(self, layer_idx: int) -> list[tuple[int, int, int]]:
        """Return address, heads and bytes of a head's slot of each of a layer's arrays."""
        return self._arrays[layer_idx]

    def fixed(self, layer_idx: int) -> list[int]:
        """Return where a layer's arrays of fixed size are in slot 0; slots lie `slot_numbers` numbers apart."""
        return self._fixed[layer_idx]

    def begin(self, tokens: int) -> np.ndarray:
        """Choose slots for the states of a pass of so many tokens; returns one `PASSAGE`."""
        stops, passage = self._states.begin(self.length, tokens), np.zeros(1, PASSAGE)
        passage["from"], passage["stops"] = self._states.current, len(stops)
        for i, stop in enumerate(stops):
            passage["tokens"][0, i], passage["slots"][0, i] = stop
        return passage

    def commit(self, tokens: int) -> None:
        """Count what a pass of so many tokens wrote."""
        self._states.commit(self.length, tokens)
        self.length += tokens

    def put(self, layer_idx: int, array: int, new: int, tokens: int) -> None:
        """Copy [G, T, C] behind the tokens in one of a layer's arrays, in the order of the stream."""
        at, heads, slot = self._arrays[layer_idx][array]
        for head in range(heads):
            target, source = at + (head * self.context + self.length) * slot, new + head * tokens * slot
            self._stream.device.call("cuMemcpyDtoDAsync_v2", target, source, tokens * slot, self._stream.handle)

    def reset(self) -> None:
        """See `KVCache.reset`."""
        self.length = 0
        self._states.clear()
        self._clear_rest()

    def nearest(self, length: int) -> int:
        """See `KVCache.nearest`."""
        return self._states.nearest(min(length, self.length))

    def want(self, lengths: Iterable[int]) -> None:
        """See `KVCache.want`."""
        self._states.want(lengths)

    def truncate(self, length: int) -> None:
        """See `KVCache.truncate`."""
        if not 0 <= length <= self.length:
            raise RequestError(f"truncate: expected 0 to {self.length} tokens to keep, got {length}")
        self._require_state(self, length)
        self._states.cut(length)
        self.length = length
        self._clear_rest()

    def copy_from(self, other: KVCache, length: int) -> None:
        """See `KVCache.copy_from`: in the order of the stream."""
        assert isinstance(other, CudaKVCache)
        if not 0 <= length <= other.length:
            raise RequestError(f"copy: expected 0 to {other.length} tokens, got {length}")
        self._require_state(other, length)
        self.length = 0
        if length:
            for mine, theirs in zip(self._arrays, other._arrays, strict=True):
                for (to, heads, slot), (source, *_) in zip(mine, theirs, strict=True):
                    self._copy(to, source, heads, slot, (other.context, length))
        self._states.copy_from(other._states, length)
        self.length = length
        self._clear_rest()

    @staticmethod
    def _require_state(cache: CudaKVCache, length: int) -> None:
        nearest = cache.nearest(length)
        if nearest != length:
            raise RequestError(
                f"length: a state cannot be cut after {length} tokens, the nearest one kept is after {nearest}"
            )

    def _clear_rest(self) -> None:
        """Set slots behind the tokens to zero, where they are read."""
        if not self._is_read_whole or self.length == self.context:
            return
        for at, heads, slot in (array for layer in self._arrays for array in layer):
            for head in range(heads):
                start, count = at + (head * self.context + self.length) * slot, (self.context - self.length) * slot
                self._stream.device.call("cuMemsetD8Async", start, 0, count, self._stream.handle)

    def _copy(self, to: int, source: int, heads: int, slot: int, tokens: tuple[int, int]) -> None:
        context, length = tokens
        for head in range(heads):
            target, origin = to + head * self.context * slot, source + head * context * slot
            self._stream.device.call("cuMemcpyDtoDAsync_v2", target, origin, length * slot, self._stream.handle)
