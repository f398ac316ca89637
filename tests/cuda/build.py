"""Builds what stands in for NVIDIA's libraries in these tests: the kernels' source compiled by g++, and the fakes."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.backends.cuda.sources import FOLDER as KERNELS

SHIM = Path(__file__).parent / "shim"
COMPILER = ("nice", "g++", "-std=c++17", "-fPIC", "-Wno-unknown-pragmas", "-Wno-psabi")
# the same roundings as on a device; jumps between fibers are no overflow
EXACT = ("-O2", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-DHB_HOST")
DRIVER_PARTS = ("fibers", "loads", "fake_state", "fake_cuda", "fake_kernels")


@dataclass(frozen=True)
class Fakes:
    """Paths of the libraries."""

    libcuda: Path
    libnvrtc: Path


def run(commands: Sequence[Sequence[str]]) -> None:
    """Run commands side by side; an error shows what the compiler said."""
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    said = [process.communicate()[1] for process in started]
    failed = [text for process, text in zip(started, said, strict=True) if process.returncode]
    assert not failed, failed[0][:4000]


def compile_command(source: Path, out: Path, *flags: str, kernels: Path = KERNELS) -> list[str]:
    return [*COMPILER, *flags, f"-I{SHIM}", f"-I{kernels}", "-c", str(source), "-o", str(out)]


def build_fakes(folder: Path) -> Fakes:
    """Compile both libraries into a folder, once."""
    fakes = Fakes(folder / "libcuda.so.1", folder / "libnvrtc.so.12")
    if fakes.libnvrtc.exists():
        return fakes
    folder.mkdir(parents=True, exist_ok=True)
    objects = {name: folder / f"{name}.o" for name in DRIVER_PARTS}
    run([compile_command(SHIM / f"{name}.cpp", out, *EXACT) for name, out in objects.items()])
    run([[*COMPILER, "-shared", *map(str, objects.values()), "-o", str(fakes.libcuda)]])
    nvrtc = folder / "nvrtc.so"
    run([[*COMPILER, "-O1", f"-I{KERNELS}", "-shared", str(SHIM / "fake_nvrtc.cpp"), "-o", str(nvrtc)]])
    nvrtc.rename(fakes.libnvrtc)
    return fakes
