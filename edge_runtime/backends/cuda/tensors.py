"""Tensors in device memory, the arithmetic between trunk and kernels, and how numbers get back to the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from edge_runtime.backends.cuda.driver import DeviceMemory, Event, PinnedMemory, Stream
from edge_runtime.backends.cuda.trunk.launches import TrunkLaunches
from edge_runtime.base.arrays import F32

_JOINED = 4
"""Joined tensors that are valid at once: the states and logits of a layer, and of the one before."""


@dataclass(frozen=True)
class DeviceTensor:
    """Float32 [rows, width] in device memory; whoever made it owns the memory.

    Attributes:
        address: of the first number.
        rows: how many.
        width: of a row.
    """

    address: int
    rows: int
    width: int


class Readback:
    """Copies from the GPU by way of pinned memory, which the driver can write at any time.

    Args:
        stream: orders the copies.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream, self._done = stream, Event(stream.device)
        self._landed: PinnedMemory | None = None

    def fetch(self, address: int, *shape: int) -> F32:
        """Return float32 numbers once all work before this call is over; an array of the caller's."""
        nbytes = 4 * prod(shape)
        if self._landed is None or self._landed.nbytes < nbytes:
            self.release()
            self._landed = PinnedMemory(self._stream.device, nbytes)
        landed = self._landed.array
        self._stream.device.call("cuMemcpyDtoHAsync_v2", landed.ctypes.data, address, nbytes, self._stream.handle)
        self._stream.record(self._done)
        self._done.synchronize()
        out: F32 = landed[:nbytes].view(np.float32).reshape(shape).copy()
        return out

    def release(self) -> None:
        """Give the pinned memory back; it is taken again when needed."""
        if self._landed is not None:
            self._landed.close()
            self._landed = None

    def close(self) -> None:
        """Give everything back. Safe to call twice."""
        self.release()
        self._done.close()


class CudaTensors:
    """Implements `TensorOps`, in the order of a stream.

    Args:
        launches: of the stream's kernels.
        stream: orders the work.
    """

    def __init__(self, launches: TrunkLaunches, stream: Stream) -> None:
        self._launches, self._stream, self._readback = launches, stream, Readback(stream)
        self._joined: list[DeviceMemory] = []

    def join(self, parts: Sequence[DeviceTensor]) -> DeviceTensor:
        """See `TensorOps.join`: copies, unless there is one part."""
        if len(parts) == 1:
            return parts[0]
        rows, width = sum(part.rows for part in parts), parts[0].width
        memory, at = self._room(4 * rows * width), 0
        for part in parts:
            nbytes = 4 * part.rows * width
            target = memory.address + at
            self._stream.device.call("cuMemcpyDtoDAsync_v2", target, part.address, nbytes, self._stream.handle)
            at += nbytes
        return DeviceTensor(memory.address, rows, width)

    def split(self, whole: DeviceTensor, rows: Sequence[int]) -> list[DeviceTensor]:
        """See `TensorOps.split`: views."""
        parts, address = [], whole.address
        for count in rows:
            parts.append(DeviceTensor(address, count, whole.width))
            address += 4 * count * whole.width
        return parts

    def add(self, into: DeviceTensor, more: DeviceTensor) -> None:
        """See `TensorOps.add`."""
        self._launches.add(into.address, more.address, into.rows * into.width)

    def to_host(self, tensor: DeviceTensor) -> F32:
        """See `TensorOps.to_host`: waits for it."""
        return self._readback.fetch(tensor.address, tensor.rows, tensor.width)

    def close(self) -> None:
        """Give all memory back. Safe to call twice."""
        for memory in self._joined:
            memory.close()
        self._joined.clear()
        self._readback.close()

    def _room(self, nbytes: int) -> DeviceMemory:
        """Return memory for a joined tensor: that of the oldest one, if it is large enough."""
        found = self._joined.pop(0) if len(self._joined) >= _JOINED else None
        if found is None or found.nbytes < nbytes:
            if found is not None:
                found.close()  # waits for kernels that use it
            found = DeviceMemory(self._stream.device, nbytes)
        self._joined.append(found)
        return found
