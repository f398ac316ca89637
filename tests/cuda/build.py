"""Builds what stands in for NVIDIA's libraries in these tests: the kernels' source compiled by g++, and the fakes."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from edge_runtime.backends.cuda.sources import FOLDER as KERNELS
from edge_runtime.backends.cuda.sources import MAIN

SHIM = Path(__file__).parent / "shim"
# whoever keeps a cache of compiled objects says so
COMPILER = (
    *(("ccache",) if "CCACHE_DIR" in os.environ else ()),
    "g++",
    "-std=c++17",
    "-fPIC",
    "-Wno-unknown-pragmas",
    "-Wno-psabi",
)
# the same roundings as on a device; jumps between fibers are no overflow
EXACT = ("-O2", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-DHB_HOST")
UNITS = {"experts": "HB_EXPERT_KERNELS", "layers": "HB_LAYER_KERNELS", "trunk": "HB_TRUNK_KERNELS"}
"""Parts the kernels are compiled in: side by side, and a fault in one leaves the others as they are."""
DRIVER_PARTS, BOUNDS = ("fibers", "loads", "fake_state", "fake_cuda"), "bounds"


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


def unit_command(unit: str, folder: Path, kernels: Path = KERNELS) -> list[str]:
    """The command that compiles a part of the kernels to `folder/UNIT.o`."""
    flags = (*EXACT, "-w", f"-DFAKE_UNIT={UNITS[unit]}")
    return compile_command(SHIM / "fake_kernels.cpp", folder / f"{unit}.o", *flags, kernels=kernels)


def link_driver(objects: Sequence[Path], library: Path) -> None:
    run([[*COMPILER, "-shared", *map(str, objects), "-o", str(library)]])


def launch_bounds(kernels: Path = KERNELS) -> dict[str, int]:
    """Return the most threads of a block of each kernel, from its source."""
    flags = ("-E", "-P", "-DHB_HOST", "-DHB_KERNEL(threads,blocks)=HB_BOUND threads HB_OF", f"-I{SHIM}")
    command = ["g++", "-std=c++17", *flags, "-x", "c++", str(kernels / MAIN)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    constants = dict(re.findall(r"constexpr u32 (k\w+) = ([^;]+);", text))

    def value(expression: str) -> int:
        return prod(int(part) if part.isdigit() else value(constants[part]) for part in expression.split(" * "))

    return {name: value(bound) for bound, name in re.findall(r"HB_BOUND (.+?) HB_OF\s+(hb_\w+)\(", text)}


def build_fakes(folder: Path) -> Fakes:
    """Compile both libraries into a folder, once."""
    fakes = Fakes(folder / "libcuda.so.1", folder / "libnvrtc.so.12")
    if fakes.libnvrtc.exists():
        return fakes
    folder.mkdir(parents=True, exist_ok=True)
    parts = [compile_command(SHIM / f"{name}.cpp", folder / f"{name}.o", *EXACT) for name in DRIVER_PARTS]
    bounds = folder / f"{BOUNDS}.cpp"
    entries = "".join(f'{{"{name}", {threads}}},\n' for name, threads in launch_bounds().items())
    table = f"extern const std::map<std::string, unsigned> launch_bounds = {{\n{entries}}};\n"
    bounds.write_text(f'#include "fake_cuda.hpp"\n{table}')
    parts.append(compile_command(bounds, folder / f"{BOUNDS}.o", *EXACT))
    run([*parts, *(unit_command(unit, folder) for unit in UNITS)])
    link_driver([folder / f"{name}.o" for name in (*DRIVER_PARTS, BOUNDS, *UNITS)], fakes.libcuda)
    nvrtc = folder / "nvrtc.so"
    run([[*COMPILER, "-O1", f"-I{KERNELS}", "-shared", str(SHIM / "fake_nvrtc.cpp"), "-o", str(nvrtc)]])
    nvrtc.rename(fakes.libnvrtc)
    return fakes
