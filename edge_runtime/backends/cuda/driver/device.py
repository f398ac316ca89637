"""One GPU: its properties, and the memory, streams, events and modules made on it."""

from __future__ import annotations

import ctypes
import threading
from contextlib import suppress
from typing import Any

from edge_runtime.backends.cuda.driver.errors import CudaContextLostError
from edge_runtime.backends.cuda.driver.library import Driver
from edge_runtime.backends.cuda.driver.taken import Taken
from edge_runtime.base.errors import DeviceError

_MULTIPROCESSORS, _INTEGRATED, _L2_BYTES, _MAJOR, _MINOR, _REGISTERS_HOST_MEMORY = 16, 18, 38, 75, 76, 99
_OLDEST_CAPABILITY = (8, 0)


class Device:
    """A GPU and its primary context, current in every thread that makes a call through it.

    Args:
        driver: the driver; the system's if left out.
        index: number of the GPU.

    Attributes:
        driver: the driver.
        name: as the driver calls the GPU.
        capability: major and minor number of its architecture.
        multiprocessors: how many it has.
        integrated: it shares the system's memory.
        l2_bytes: of its cache in front of its memory.
        registers_host_memory: memory of the system can be registered.
        taken: memory of the system that the driver holds beside this process's own pages.

    Raises:
        DeviceError: there is no driver or no such GPU, or it is too old for the kernels.
    """

    def __init__(self, driver: Driver | None = None, index: int = 0) -> None:
        self.driver = Driver() if driver is None else driver
        self._thread, self.taken = threading.local(), Taken()
        self._open = False
        self.capability = capability_of(self.driver, index)
        self._index = self.driver.int_from("cuDeviceGet", index)
        self.name = _read_name(self.driver, self._index)
        self.multiprocessors = self._attribute(_MULTIPROCESSORS)
        self.integrated = bool(self._attribute(_INTEGRATED))
        self.l2_bytes = self._attribute(_L2_BYTES)
        self.registers_host_memory = bool(self._attribute(_REGISTERS_HOST_MEMORY))
        self._context = self.driver.handle_from("cuDevicePrimaryCtxRetain", self._index)
        self._open = True

    def _attribute(self, which: int) -> int:
        return self.driver.int_from("cuDeviceGetAttribute", which, self._index)

    @property
    def arch(self) -> str:
        """What kernels are compiled for: "sm_87"."""
        return f"sm_{self.capability[0]}{self.capability[1]}"

    @property
    def total_bytes(self) -> int:
        """Memory of the GPU; the system's where it is integrated."""
        return self.driver.handle_from("cuDeviceTotalMem_v2", self._index)

    def call(self, name: str, *arguments: object, detail: str = "") -> None:
        """Call the driver with this GPU's context current in the calling thread.

        Raises:
            CudaError: the call failed.
        """
        self.make_current()
        self.driver.call(name, *arguments, detail=detail)

    def handle_from(self, name: str, *arguments: object, detail: str = "") -> int:
        """Call a function that writes a handle to its first argument, and return that."""
        self.make_current()
        return self.driver.handle_from(name, *arguments, detail=detail)

    def status(self, name: str, *arguments: object) -> int:
        """Call a function whose code is an answer, and return it."""
        self.make_current()
        return self.driver.status(name, *arguments)

    def make_current(self) -> None:
        """Make the context current in this thread, if it is not."""
        if not getattr(self._thread, "current", False):
            self.driver.call("cuCtxSetCurrent", self._context)
            self._thread.current = True

    def release(self, name: str, handle: int | None) -> None:
        """Give a handle back. After the context was lost or closed it is gone already."""
        if handle is None or not self._open:
            return
        try:
            self.call(name, handle)
        except CudaContextLostError:
            return

    def release_host(self, name: str, handle: int | None) -> None:
        """Give back memory of the host once all work is over: only freeing the GPU's own makes the driver wait."""
        if handle is None or not self._open:
            return
        try:
            self.call("cuCtxSynchronize")
        except CudaContextLostError:  # work that failed is over as well
            return
        self.release(name, handle)

    def close(self) -> None:
        """Give the context back; what was made on it must have been closed. Safe to call twice."""
        if self._open:
            self._open = False
            with suppress(CudaContextLostError):
                self.driver.call("cuDevicePrimaryCtxRelease_v2", self._index)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def capability_of(driver: Driver, index: int) -> tuple[int, int]:
    """Return major and minor number of a GPU's architecture, without making a context on it.

    Raises:
        DeviceError: there is no such GPU, or it is too old for the kernels.
    """
    count = driver.int_from("cuDeviceGetCount")
    if not 0 <= index < count:
        raise DeviceError(f"cuda: there is no GPU {index}, the driver has {count}. Choose one of them.")
    gpu = driver.int_from("cuDeviceGet", index)
    major, minor = (driver.int_from("cuDeviceGetAttribute", which, gpu) for which in (_MAJOR, _MINOR))
    if (major, minor) < _OLDEST_CAPABILITY:
        raise DeviceError(
            f"cuda: {_read_name(driver, gpu)} has compute capability {major}.{minor}; the kernels need 8.0 or newer "
            "(Orin has 8.7). Use the CPU backend."
        )
    return major, minor


def _read_name(driver: Driver, gpu: int) -> str:
    text = ctypes.create_string_buffer(128)
    driver.call("cuDeviceGetName", text, len(text), gpu)
    return text.value.decode("utf-8", "replace")
