"""What a device is: board, memory, release of its system, and which of NVIDIA's libraries are there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import DeviceError
from edge_runtime.config.boards import l4t_release
from edge_runtime.config.limits import read_limits
from edge_runtime.telemetry.hardware import describe_hardware

_FILES = ("etc/nv_tegra_release", "etc/os-release", "proc/driver/nvidia/version", "sys/module/nvidia/version")
_LIBRARIES = (
    "libcuda.so*",
    "libnvrtc.so*",
    "libnvinfer.so*",
    "libnvonnxparser.so*",
    "libcudnn.so*",
    "libnvdla_compiler.so*",
)
_FOLDERS = (
    "usr/lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu/tegra", "usr/lib/aarch64-linux-gnu/nvidia",
    "usr/local/cuda/lib64", "usr/lib/x86_64-linux-gnu",
)  # fmt: skip
_WHEELS = "nvidia/*/lib"
"""Where NVIDIA's wheels have their libraries, below a folder of packages."""
_PACKAGES = (
    "hobbit-edge", "onnxruntime", "onnxruntime-gpu", "numpy", "tensorrt", "nvidia-cuda-nvrtc-cu12", "nvidia-cuda-nvrtc",
)  # fmt: skip
_POWER_MODE = re.compile(r"^NV Power Mode: *(\S.*)$", re.MULTILINE)
_MOST = 2000
_TOOLS = (("nvpmodel", "-q"), ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv"))


def describe_machine(folder: Path, root: Path = Path("/"), packages: Iterable[str] = ()) -> dict[str, Any]:
    """Return what this machine is; what cannot be read is left out.

    Args:
        folder: whose drive is described.
        root: where the system's files are; tests pass a fake tree.
        packages: folders that Python's packages are in; left out: this interpreter's.
    """
    files = {name: _read(root / name) for name in _FILES}
    wheels = [found for place in packages or sys.path for found in Path(place).glob(_WHEELS)]
    folders = [*(root / place for place in _FOLDERS), *wheels]
    libraries = {path.name for place in folders for pattern in _LIBRARIES for path in place.glob(pattern)}
    return {
        "hardware": describe_hardware(folder, root),
        "memory": _memory(root),
        "files": {name: text for name, text in files.items() if text},
        "libraries": sorted(libraries),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "tools": {command[0]: _said(command) for command in _TOOLS if shutil.which(command[0])},
    }


def jetson_linux(root: Path = Path("/")) -> str | None:
    """Return the release of Jetson Linux, as "36.4.3"; None where there is none."""
    return ".".join(map(str, l4t_release(_read(root / "etc/nv_tegra_release")))) or None


def power_mode() -> str | None:
    """Return the name of a Jetson's power mode, as nvpmodel says it; None where that is not known."""
    found = _POWER_MODE.search(_said(("nvpmodel", "-q"))) if shutil.which("nvpmodel") else None
    return found[1].strip() if found else None


def _memory(root: Path) -> dict[str, int | None]:
    """What is available, and the lowest limit of a cgroup."""
    with suppress(DeviceError):
        limits = read_limits(root)
        return {"available_bytes": limits.available_bytes, "limit_bytes": limits.cgroup_limit_bytes}
    return {}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _said(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        return f"{type(err).__name__}"
    return (done.stdout + done.stderr)[:_MOST]


def _read(path: Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MOST).strip()
    except OSError:
        return ""
