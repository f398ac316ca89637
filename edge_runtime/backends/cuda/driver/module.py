"""Compiled kernels on a GPU, and their launch."""

from __future__ import annotations

import ctypes
import hashlib
from typing import Any

from edge_runtime.backends.cuda.driver.device import Device
from edge_runtime.backends.cuda.driver.held import Launch
from edge_runtime.backends.cuda.driver.stream import Stream


class Module:
    """The kernels of one compiled image.

    Args:
        device: the GPU.
        image: a cubin.

    Attributes:
        digest: SHA-256 of the image, hex.

    Raises:
        CudaError: the driver cannot load it; its code is in `errors.IMAGE_REFUSED`.
    """

    def __init__(self, device: Device, image: bytes) -> None:
        self.device, self.digest = device, hashlib.sha256(image).hexdigest()
        detail = f" for kernels compiled for {device.arch}"
        handle = device.handle_from("cuModuleLoadData", image, detail=detail)
        self._handle: int | None = device.own("cuModuleUnload", handle)
        self._kernels: dict[str, Kernel] = {}

    def kernel(self, name: str) -> Kernel:
        """Return a kernel by the name of its entry point.

        Raises:
            CudaError: there is none of that name.
        """
        if name not in self._kernels:
            detail = f" for kernel {name}"
            found = self.device.handle_from("cuModuleGetFunction", self._handle, name.encode("ascii"), detail=detail)
            self._kernels[name] = Kernel(self.device, name, found)
        return self._kernels[name]

    def close(self) -> None:
        """Unload it; no kernel of it may run. Safe to call twice."""
        handle, self._handle = self._handle, None
        self._kernels.clear()
        self.device.release("cuModuleUnload", handle)


class Kernel:
    """An entry point of a module."""

    def __init__(self, device: Device, name: str, handle: int) -> None:
        self.device, self.name, self._handle = device, name, handle

    def launch(self, stream: Stream, grid: tuple[int, int], threads: int, *arguments: Any) -> None:
        """Start it in the order of a stream.

        Args:
            stream: orders it.
            grid: blocks in x and y; nothing is started where one of them is 0.
            threads: of a block.
            arguments: ctypes objects of the sizes the kernel takes; copied, later where the stream holds launches
                back, so nobody changes them.

        Raises:
            CudaError: the driver refused the launch.
        """
        if 0 in grid:
            return
        if stream.holds:
            stream.held.add(Launch(self, grid, threads, arguments))
        else:
            self.start(stream, grid, threads, arguments)

    def start(self, stream: Stream, grid: tuple[int, int], threads: int, arguments: tuple[Any, ...]) -> None:
        """Give it to the driver, whatever the stream holds back."""
        pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        size = (*grid, 1, threads, 1, 1, 0)
        detail = f" for {self.name}, grid {grid[0]} x {grid[1]}, {threads} threads"
        self.device.call("cuLaunchKernel", self._handle, *size, stream.handle, pointers, None, detail=detail)
