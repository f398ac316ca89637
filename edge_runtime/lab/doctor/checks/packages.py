"""Python packages that shadow what Jetson Linux brings, or cannot work on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edge_runtime.lab.doctor.device import Device
from edge_runtime.lab.doctor.findings import Found, check

_CUDA_WHEELS = ("onnxruntime_gpu", "torch", "bitsandbytes")
_TENSORRT = ("tensorrt", "tensorrt_cu12", "tensorrt_cu13", "tensorrt_cu12_libs", "tensorrt_cu13_libs", "tensorrt_libs")


@check(
    "wheel-without-arch", "warning", "a CUDA wheel from PyPI on an Orin",
    why="Wheels for ARM servers hold no code for sm_87. They import, list CUDA as available, and fail at the first "
    "kernel.",
    fix="take the wheel from NVIDIA's Jetson index of your JetPack (jp6/cu126, jp7), or leave the package out",
    where="Orin",
)  # fmt: skip
def wheel_without_arch(device: Device) -> Iterator[Found]:
    """A package of CUDA code whose tag is manylinux; wheels built for Jetson are tagged linux_aarch64."""
    if not any(name == "nvidia,tegra234" for name in device.board.compatible):
        return
    for package in _CUDA_WHEELS:
        for folder in device.packages(package):
            tags = [line for line in device.text(folder / "WHEEL").splitlines() if line.startswith("Tag:")]
            if any("manylinux" in tag and "aarch64" in tag for tag in tags):
                yield Found(f"{_name(folder)} was built for ARM servers")


@check(
    "second-tensorrt", "error", "a TensorRT from pip beside the one of JetPack",
    why="Engines are tied to the TensorRT that built them, and two in one process crash or load the wrong one. "
    "NVIDIA's ARM wheels are not for Jetson.",
    fix="pip uninstall tensorrt tensorrt-cu12 tensorrt-cu13 tensorrt-cu12-libs tensorrt-cu13-libs", where="Jetson",
)  # fmt: skip
def second_tensorrt(device: Device) -> Iterator[Found]:
    """Packages of that name which pip installed, and a system library."""
    found = [folder for name in _TENSORRT for folder in device.packages(name)]
    by_pip = sorted({_name(folder) for folder in found if device.words(folder / "INSTALLER") in ("pip", "uv")})
    if device.is_jetson and by_pip and device.libraries("libnvinfer.so"):
        yield Found(f"{', '.join(by_pip)} and JetPack's libnvinfer")


@check(
    "two-onnxruntimes", "error", "onnxruntime and onnxruntime-gpu in one environment",
    why="Both write the same files: what is imported is a mixture, and uninstalling one breaks the other.",
    fix="pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime",
)  # fmt: skip
def two_onnxruntimes(device: Device) -> Iterator[Found]:
    """Metadata of both in the same folder."""
    plain = {path.parent for path in device.packages("onnxruntime")}
    both = [path for path in device.packages("onnxruntime_gpu") if path.parent in plain]
    if both:
        yield Found(f"{_name(both[0])} lies beside onnxruntime")


def _name(folder: Path) -> str:
    return folder.name.removesuffix(".dist-info").replace("-", " ")
