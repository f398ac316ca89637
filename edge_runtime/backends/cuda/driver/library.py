"""`libcuda.so.1`, loaded when it is asked for: the functions used, their arguments, and checked calls."""

from __future__ import annotations

import ctypes
from typing import Any

from edge_runtime.backends.cuda.driver.errors import make_error
from edge_runtime.base.errors import DeviceError
from edge_runtime.base.jetpack import DRIVER_LIBRARY

POINTER, SIZE, UINT, INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int
ADDRESS = ctypes.c_uint64
"""A device address. Handles (contexts, streams, events, modules, functions, graphs) are pointers."""

FUNCTIONS: dict[str, tuple[type, ...]] = {
    "cuInit": (UINT,),
    "cuDriverGetVersion": (POINTER,),
    "cuGetErrorName": (INT, POINTER),
    "cuDeviceGetCount": (POINTER,),
    "cuDeviceGet": (POINTER, INT),
    "cuDeviceGetName": (POINTER, INT, INT),
    "cuDeviceGetAttribute": (POINTER, INT, INT),
    "cuDeviceTotalMem_v2": (POINTER, INT),
    "cuDevicePrimaryCtxRetain": (POINTER, INT),
    "cuDevicePrimaryCtxRelease_v2": (INT,),
    "cuCtxSetCurrent": (POINTER,),
    "cuCtxSynchronize": (),
    "cuMemAlloc_v2": (POINTER, SIZE),
    "cuMemFree_v2": (ADDRESS,),
    "cuMemHostAlloc": (POINTER, SIZE, UINT),
    "cuMemFreeHost": (POINTER,),
    "cuMemHostRegister_v2": (POINTER, SIZE, UINT),
    "cuMemHostUnregister": (POINTER,),
    "cuMemHostGetDevicePointer_v2": (POINTER, POINTER, UINT),
    "cuMemcpyHtoDAsync_v2": (ADDRESS, POINTER, SIZE, POINTER),
    "cuMemcpyDtoHAsync_v2": (POINTER, ADDRESS, SIZE, POINTER),
    "cuMemcpyDtoDAsync_v2": (ADDRESS, ADDRESS, SIZE, POINTER),
    "cuMemsetD8Async": (ADDRESS, ctypes.c_ubyte, SIZE, POINTER),
    "cuStreamCreate": (POINTER, UINT),
    "cuStreamDestroy_v2": (POINTER,),
    "cuStreamSynchronize": (POINTER,),
    "cuStreamWaitEvent": (POINTER, POINTER, UINT),
    "cuEventCreate": (POINTER, UINT),
    "cuEventDestroy_v2": (POINTER,),
    "cuEventRecord": (POINTER, POINTER),
    "cuEventQuery": (POINTER,),
    "cuEventSynchronize": (POINTER,),
    "cuEventElapsedTime": (POINTER, POINTER, POINTER),
    "cuModuleLoadData": (POINTER, POINTER),
    "cuModuleUnload": (POINTER,),
    "cuModuleGetFunction": (POINTER, POINTER, POINTER),
    "cuLaunchKernel": (POINTER, *(UINT,) * 7, POINTER, POINTER, POINTER),
    "cuStreamBeginCapture_v2": (POINTER, INT),
    "cuStreamEndCapture": (POINTER, POINTER),
    "cuGraphInstantiateWithFlags": (POINTER, POINTER, ctypes.c_uint64),
    "cuGraphLaunch": (POINTER, POINTER),
    "cuGraphDestroy": (POINTER,),
    "cuGraphExecDestroy": (POINTER,),
}
"""Every function used, by the name the library exports, and its arguments; each returns a code."""

OLDEST_DRIVER = 12000
"""CUDA version a driver has to support: 1000 major + 10 minor. JetPack 6 has 12.6."""


def open_library(name: str) -> ctypes.CDLL:
    """Load the driver's library.

    Raises:
        DeviceError: it is not there or does not load.
    """
    try:
        return ctypes.CDLL(name)
    except OSError as err:
        raise DeviceError(
            f"cuda: {name} does not load ({err}). It belongs to NVIDIA's driver. On a Jetson: {DRIVER_LIBRARY}. A "
            "container is given it by --runtime nvidia."
        ) from err


class Driver:
    """The driver's functions.

    Args:
        library: name or path of the driver's library, or one that was loaded.

    Attributes:
        version: CUDA version it supports: 1000 major + 10 minor.
        cuda: the same as major and minor.

    Raises:
        DeviceError: the library is missing, or older than what the runtime uses.
    """

    def __init__(self, library: str | ctypes.CDLL = "libcuda.so.1") -> None:
        loaded = open_library(library) if isinstance(library, str) else library
        self._functions = {name: self._bind(loaded, name) for name in FUNCTIONS}
        self.call("cuInit", 0)
        self.version = self.int_from("cuDriverGetVersion")
        self.cuda = self.version // 1000, self.version % 1000 // 10
        if self.version < OLDEST_DRIVER:
            raise DeviceError(
                f"cuda: the driver supports CUDA {_dotted(self.version)}, {_dotted(OLDEST_DRIVER)} or newer is needed. "
                "Update the driver; on an Orin, install JetPack 6 or newer."
            )

    @staticmethod
    def _bind(loaded: ctypes.CDLL, name: str) -> Any:
        try:
            function = getattr(loaded, name)
        except AttributeError as err:
            raise DeviceError(
                f"cuda: the driver's library has no {name}: it is older than CUDA {_dotted(OLDEST_DRIVER)}. "
                "Update the driver; on an Orin, install JetPack 6 or newer."
            ) from err
        function.argtypes, function.restype = FUNCTIONS[name], ctypes.c_int
        return function

    def status(self, name: str, *arguments: object) -> int:
        """Call a function and return its code."""
        return int(self._functions[name](*arguments))

    def call(self, name: str, *arguments: object, detail: str = "") -> None:
        """Call a function.

        Args:
            name: the function.
            arguments: as the driver takes them.
            detail: for the error's message: what was asked for.

        Raises:
            CudaError: it returned a code other than 0.
        """
        code = int(self._functions[name](*arguments))
        if code:
            raise make_error(name, code, self.error_name(code), detail)

    def int_from(self, name: str, *arguments: object) -> int:
        """Call a function that writes an int to its first argument, and return that."""
        out = ctypes.c_int()
        self.call(name, ctypes.byref(out), *arguments)
        return out.value

    def handle_from(self, name: str, *arguments: object, detail: str = "") -> int:
        """Call a function that writes a handle or an address to its first argument, and return that."""
        out = ctypes.c_uint64()
        self.call(name, ctypes.byref(out), *arguments, detail=detail)
        return out.value

    def error_name(self, code: int) -> str:
        """Return the driver's name of a code."""
        text = ctypes.c_char_p()
        if self.status("cuGetErrorName", code, ctypes.byref(text)) or text.value is None:
            return "an unknown code"
        return text.value.decode("ascii", "replace")


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
