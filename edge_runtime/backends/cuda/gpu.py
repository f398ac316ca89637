"""What is opened once for a backend: the GPU, its kernels and streams."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from edge_runtime.backends.cuda.cubins import cache_folder, load_kernels
from edge_runtime.backends.cuda.driver import Device, Driver, Module, Stream
from edge_runtime.backends.cuda.nvrtc import Nvrtc


class Gpu:
    """A GPU with its kernels loaded.

    Args:
        driver: the driver; the system's if left out.
        index: number of the GPU.
        folder: where compiled kernels are kept; `cache_folder` if left out.
        compiler: makes the compiler, when it is needed.

    Attributes:
        device: the GPU.
        module: its kernels.
        compute: the stream kernels run on.
        copies: the stream of transfers.
        folder: where compiled kernels are kept, and what was measured of the memory.

    Raises:
        DeviceError: a component is missing; names it.
    """

    def __init__(
        self,
        driver: Driver | None = None,
        index: int = 0,
        *,
        folder: Path | None = None,
        compiler: Callable[[], Nvrtc] = Nvrtc,
    ) -> None:
        self.folder = cache_folder() if folder is None else folder
        with ExitStack() as undo:
            self.device = Device(driver, index)
            undo.callback(self.device.close)
            self.module: Module = load_kernels(self.device, folder=self.folder, compiler=compiler)
            undo.callback(self.module.close)
            self.compute = Stream(self.device)
            undo.callback(self.compute.close)
            self.copies = Stream(self.device)
            undo.callback(self.copies.close)
            self._closing = undo.pop_all()

    @property
    def fingerprint(self) -> str:
        """Changes with anything that changes what the kernels compute: architecture and compiled code."""
        return f"{self.device.arch}-{self.module.digest[:16]}"

    def close(self) -> None:
        """Give everything back; what was made on it is closed. Safe to call twice."""
        self._closing.close()
