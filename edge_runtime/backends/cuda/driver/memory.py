"""Memory of the GPU, memory of the host the GPU reads, and copies between them."""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cuda.driver.device import Device
from edge_runtime.backends.cuda.driver.stream import Stream
from edge_runtime.base.arrays import U8
from edge_runtime.base.errors import DeviceError
from edge_runtime.base.sizes import format_size

_PORTABLE_AND_MAPPED = 3
"""CU_MEMHOSTALLOC_ and CU_MEMHOSTREGISTER_ PORTABLE (every context) and DEVICEMAP (an address on the GPU)."""
Array = NDArray[Any]


class _Memory:
    """Bytes the GPU can address.

    Attributes:
        address: on the GPU.
        nbytes: how many.
    """

    _release = ""

    def __init__(self, device: Device, address: int, nbytes: int, key: int = 0) -> None:
        self.device, self.address, self.nbytes, self._key = device, address, nbytes, key
        self._handle: int | None = address

    def close(self) -> None:
        """Give the memory back when no work uses it any more: waits for that. Safe to call twice."""
        handle, self._handle = self._handle, None
        self.device.release(self._release, handle)
        self.device.taken.give_back(self._key)

    def _check(self, offset: int, nbytes: int) -> int:
        assert 0 <= offset <= self.nbytes - nbytes, f"{offset} + {nbytes} bytes of {self.nbytes}"
        return self.address + offset

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


class DeviceMemory(_Memory):
    """Memory of the GPU alone: the host never touches it.

    Raises:
        CudaMemoryError: there is not as much left.
    """

    _release = "cuMemFree_v2"

    def __init__(self, device: Device, nbytes: int) -> None:
        detail = f" for {format_size(nbytes)} of device memory"
        of_the_system = nbytes if device.integrated else 0
        allocate = partial(device.handle_from, "cuMemAlloc_v2", nbytes, detail=detail)
        address, key = device.taken.take(of_the_system, allocate)
        super().__init__(device, device.own(self._release, address), nbytes, key)

    def write(self, array: Array, stream: Stream, offset: int = 0) -> None:
        """Copy an array here, in the order of a stream.

        Args:
            array: C-contiguous. In pinned or registered memory it must not change before the copy has run; other
                memory has been read when this returns.
            stream: orders the copy.
            offset: in bytes.
        """
        target = self._check(offset, array.nbytes)
        self.device.call("cuMemcpyHtoDAsync_v2", target, _address(array), array.nbytes, stream.handle)

    def read(self, array: Array, stream: Stream, offset: int = 0) -> None:
        """Copy from here to an array, in the order of a stream; it holds the bytes when the copy has run.

        Args:
            array: C-contiguous; must live until then.
            stream: orders the copy.
            offset: in bytes.
        """
        source = self._check(offset, array.nbytes)
        self.device.call("cuMemcpyDtoHAsync_v2", _address(array), source, array.nbytes, stream.handle)

    def copy_from(
        self, source: _Memory, nbytes: int, stream: Stream, *, offset: int = 0, source_offset: int = 0
    ) -> None:
        """Copy bytes of other memory the GPU can address, in the order of a stream."""
        target = self._check(offset, nbytes)
        self.device.call("cuMemcpyDtoDAsync_v2", target, source._check(source_offset, nbytes), nbytes, stream.handle)

    def fill(self, value: int, stream: Stream) -> None:
        """Set every byte, in the order of a stream."""
        self.device.call("cuMemsetD8Async", self.address, value, self.nbytes, stream.handle)


class PinnedMemory(_Memory):
    """Memory of the host that stays where it is; the GPU reads and copies it in place.

    Raises:
        CudaMemoryError: there is not as much left.
    """

    _release = "cuMemFreeHost"

    def __init__(self, device: Device, nbytes: int) -> None:
        detail = f" for {format_size(nbytes)} of pinned memory"
        allocate = partial(device.handle_from, "cuMemHostAlloc", nbytes, _PORTABLE_AND_MAPPED, detail=detail)
        host, key = device.taken.take(nbytes, allocate)
        device.own(self._release, host)
        try:
            address = device.handle_from("cuMemHostGetDevicePointer_v2", host, 0)
        except BaseException:
            device.release(self._release, host)
            device.taken.give_back(key)
            raise
        super().__init__(device, address, nbytes, key)
        self._handle = host
        self._array: U8 = np.ctypeslib.as_array((ctypes.c_ubyte * nbytes).from_address(host))

    def keep(self) -> None:
        """Never give it back."""
        if self._handle is not None:
            self.device.keep(self._release, self._handle)

    @property
    def array(self) -> U8:
        """uint8 [nbytes], the bytes on the host: those of a view go with this, or with the device.

        Raises:
            DeviceError: they are gone.
        """
        self.device.require_open()
        if self._handle is None:
            raise DeviceError("cuda: pinned memory was given back. This is a fault of the runtime.")
        return self._array


class RegisteredMemory(_Memory):
    """Ordinary memory of the host, made known to the GPU: what a read from the drive leaves there, a kernel reads.

    Args:
        device: the GPU.
        host: address on the host, 4 KiB aligned.
        nbytes: how many. The owner keeps them until this is closed.

    Raises:
        DeviceError: the GPU cannot do it.
        CudaError: the driver refused.
    """

    _release = "cuMemHostUnregister"

    def __init__(self, device: Device, host: int, nbytes: int) -> None:
        detail = f" for {format_size(nbytes)}"
        device.call("cuMemHostRegister_v2", host, nbytes, _PORTABLE_AND_MAPPED, detail=detail)
        device.own(self._release, host)
        try:
            address = device.handle_from("cuMemHostGetDevicePointer_v2", host, 0)
        except BaseException:
            device.release(self._release, host)
            raise
        super().__init__(device, address, nbytes)
        self._handle = host


def _address(array: Array) -> int:
    assert array.flags.c_contiguous, "a copy takes a C-contiguous array"
    return int(array.ctypes.data)
