"""One GPU: its properties, and the memory, streams, events and modules made on it."""

from __future__ import annotations

import ctypes
import threading
from contextlib import ExitStack, suppress
from typing import Any

from edge_runtime.backends.cuda.driver.errors import CudaContextLostError
from edge_runtime.backends.cuda.driver.library import Driver
from edge_runtime.backends.cuda.driver.taken import Taken
from edge_runtime.base.errors import DeviceError

_MULTIPROCESSORS, _INTEGRATED, _L2_BYTES, _MAJOR, _MINOR, _REGISTERS_HOST_MEMORY = 16, 18, 38, 75, 76, 99
_OLDEST_CAPABILITY = (8, 0)
_OF_THE_HOST = ("cuMemFreeHost", "cuMemHostUnregister")
"""What gives back memory of the host: only freeing the GPU's own makes the driver wait for work."""


class Device:
    """A GPU and its primary context, current in every thread that makes a call through it.

    It owns what is made on it: memory, streams, events, modules and graphs go with it, whoever still refers to them.

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
        # single operations on it cannot be interrupted; a finalizer may come in between
        self._owned: dict[tuple[str, int], bool] = {}
        self._keeps_context = False
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
    def facts(self) -> tuple[object, ...]:
        """What tells GPUs and drivers apart: those of a Nano, an NX and an AGX have one name and one architecture.

        Memory as the next power of two: of a Jetson's, what is left depends on the system's kernel and what it keeps.
        """
        memory = 1 << (self.total_bytes - 1).bit_length()
        return (
            self.name, self.arch, self.driver.version, memory, self.multiprocessors, self.integrated,
            self.registers_host_memory, self.l2_bytes,
        )  # fmt: skip

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
        """Make the context current in this thread, if it is not.

        Raises:
            DeviceError: the GPU is closed.
        """
        self.require_open()
        if not getattr(self._thread, "current", False):
            self.driver.call("cuCtxSetCurrent", self._context)
            self._thread.current = True

    def require_open(self) -> None:
        """Refuse to go on with a GPU that is closed: what was made on it is gone.

        Raises:
            DeviceError: it is.
        """
        if not self._open:
            raise DeviceError("cuda: the GPU was closed, and what was made on it with it. Open the engine again.")

    def own(self, release: str, handle: int) -> int:
        """Take over a handle, to be given back by the function of that name, and return it."""
        self._owned[release, handle] = True
        return handle

    def release(self, name: str, handle: int | None) -> None:
        """Give back a handle that is owned, memory of the host once all work is over.

        Nothing happens where it was given back before, or the device was closed. After the context was lost it is gone.
        """
        if handle is None or (name, handle) not in self._owned:
            return
        with suppress(CudaContextLostError):  # work that failed is over as well
            if name in _OF_THE_HOST:
                self.call("cuCtxSynchronize")
        if not self._owned.pop((name, handle), False):  # a finalizer in another thread was faster
            return
        try:
            self.call(name, handle)
        except CudaContextLostError:
            return
        except BaseException:
            self.own(name, handle)  # the device tries again when it is closed
            raise

    def keep(self, name: str, handle: int) -> None:
        """Never give this back, nor the context, which would take it along: something outside may still write there."""
        self._owned.pop((name, handle), None)
        self._keeps_context = True

    def close(self) -> None:
        """Give back what was made on it and is left, the youngest first, and the context. Safe to call twice.

        Raises:
            CudaError: the driver refused something. The rest was given back.
        """
        if not self._open:
            return
        with ExitStack() as rest:
            rest.callback(self._give_up_context)
            for name, handle in [*self._owned]:
                rest.callback(self.release, name, handle)

    def _give_up_context(self) -> None:
        self._open = False
        self._owned.clear()
        self.taken.clear()
        if self._keeps_context:
            return
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
