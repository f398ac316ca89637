"""Which component of the CUDA path a machine lacks, and how to get it. Makes no context on the GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.base.errors import DeviceError

if TYPE_CHECKING:
    from edge_runtime.backends.cuda.driver import Driver
    from edge_runtime.backends.cuda.nvrtc import Nvrtc

_SIGNS = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu", "/dev/nvmap", "/proc/driver/nvidia/version")
"""Of NVIDIA's driver on a workstation, on a Jetson, and either."""
UNPROVEN = "it has been shown over a fake driver only, never on a GPU: docs/cuda.md"


def has_gpu(signs: tuple[str, ...] = _SIGNS) -> bool:
    """Whether this machine looks as if it had an NVIDIA GPU, working or not. Loads nothing."""
    return any(Path(sign).exists() for sign in signs)


def why_missing(
    make_driver: Callable[[], Driver] | None = None,
    compiler: Callable[[], Nvrtc] | None = None,
    folder: Path | None = None,
) -> str:
    """Name the missing component: the driver, a GPU new enough, or its kernels and what compiles them; "" if none is.

    Args:
        make_driver: loads the driver; `Driver` if left out.
        compiler: loads the compiler; `Nvrtc` if left out.
        folder: where compiled kernels are kept; `cache_folder` if left out.
    """
    from edge_runtime.backends.cuda.cubins import cache_folder, cubin_name, read_cubin
    from edge_runtime.backends.cuda.driver import Driver
    from edge_runtime.backends.cuda.driver.device import capability_of
    from edge_runtime.backends.cuda.nvrtc import Nvrtc
    from edge_runtime.backends.cuda.sources import read_source

    try:
        driver = (make_driver or Driver)()
        major, minor = capability_of(driver, 0)
        arch = f"sm_{major}{minor}"
        kept = (cache_folder() if folder is None else folder) / cubin_name(read_source(), arch)
        if read_cubin(kept) is None:
            (compiler or Nvrtc)().require(arch, driver.cuda)
    except DeviceError as err:
        return str(err)
    return ""


@cache
def why_passed_over() -> str:
    """Say why `auto` does not compute on the GPU of this machine; "" if it has none. Looked up once a process.

    Loads nothing: a process that computes on the CPU has no memory to give to NVIDIA's libraries. What else is missing
    `hobbit doctor` says, and `--backend cuda`.
    """
    return UNPROVEN if has_gpu() else ""


def why_lacking(settings: Mapping[str, Any]) -> str:
    """Say why the library that settings ask for cannot be loaded; "" if it can, or they ask for none."""
    from edge_runtime.backends.cuda.settings import ENGINES
    from edge_runtime.backends.cuda.tensorrt.library import load_library

    if settings.get("trunk") != ENGINES:
        return ""
    try:
        load_library()
    except DeviceError as err:
        return str(err)
    return ""
