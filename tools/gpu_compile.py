"""Compile the CUDA kernels for every GPU they are meant for, and hold what comes out against limits. No GPU needed.

    python tools/gpu_compile.py                     compile, check, write benchmarks/results/gpu_compile.json
                                                    and the table of docs/cuda.md
    python tools/gpu_compile.py --cubins FOLDER     and leave the kernels there, for a device without a compiler
    python tools/gpu_compile.py --toolchain FOLDER  take NVIDIA's wheels from `pip install --target FOLDER`

The compilers are the wheels of the extra `gpu-compile` (NVIDIA's licence, a tool of development alone). Without them
nothing is checked, which is said. Limits: no spills and no local memory, at most 80 registers, weights in loads of 16
bytes (as many as the planes need), and a number of instructions for each weight in the loop that decoding spends its
time in.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import marked_page
from sass import Code, Resources, read_code, read_resources

from edge_runtime.backends.cuda.cubins import cubin_name, write_cubin
from edge_runtime.backends.cuda.nvrtc import Nvrtc
from edge_runtime.backends.cuda.sources import FOLDER, MAIN, OPTIONS, read_source

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks/results/gpu_compile.json"
PAGE = ROOT / "docs/cuda.md"
TARGETS = {"nvcc": ("sm_87", "sm_90", "sm_110"), "nvrtc12": ("sm_87", "sm_90"), "nvrtc13": ("sm_87", "sm_90", "sm_110")}
"""Orin, Hopper, Thor. The kernels of an Orin are compiled by NVRTC 12.6 (JetPack 6) or 13.2 (JetPack 7)."""

MOST_REGISTERS = 80
MOST_INSTRUCTIONS = {2: 1.65, 3: 1.65, 4: 1.45, 5: 2.8, 6: 2.35, 8: 2.45, 16: 4.0}
"""For each weight, in the inner loop of decoding, by tier: what was measured first plus a tenth."""
WEIGHT_LOAD = r"LDG\.E\.NA\.128"
WIDE_LOAD = r"LDG\.E(?:\.\w+)*\.128"
"""Of what several warps read, cached: activations, which kernels for several tokens load that way."""
TENSOR_CORE = r"IMMA"
COLUMN_TILES, LOADS_A_TILE = 2, 2
"""Of a tile of tokens (kTiles), and loads of its columns' figures: the two that a lane gets sums of."""
BF16_LOADS = 4
"""Loads of 16 bytes that a lane has under way at tier 16: as often the loop is unrolled."""
READER, LOADS_UNDER_WAY = "hb_read", 4
"""The kernel that measures bandwidth, and the loads a thread of it has under way (kReadAhead)."""


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel's figures.

    Attributes:
        resources: registers, and what did not fit them.
        wide_loads: of 16 bytes in its loop over weights, where it has one.
        instructions_a_weight: in the loop that decoding spends its time in.
        products: on tensor cores in the loop of several tokens.
    """

    resources: Resources
    wide_loads: int | None = None
    instructions_a_weight: float | None = None
    products: int | None = None


def tier_of(name: str) -> int | None:
    """Tier of a kernel that computes experts; 3 and 5 are tiers 2 and 4 of 4-bit floats."""
    return int(name.rsplit("_", 1)[1]) if name.rsplit("_", 1)[1].isdigit() else None


def is_batch(name: str) -> bool:
    """Whether a kernel is for several tokens."""
    return "batch" in name


def least_wide_loads(name: str) -> int:
    """Return the loads of 16 bytes its loop needs: a step of a lane is two of each plane's, all under way at once.

    For several tokens a group of a plane is one request of 128 bytes, four a lane, as tensor cores take them. What is
    wide there are figures of activations, from tier 6 on: below, two of the four numbers do.
    """
    tier = tier_of(name)
    if name == READER:
        return LOADS_UNDER_WAY
    if tier is None:
        return 0
    if is_batch(name):
        return COLUMN_TILES * LOADS_A_TILE if tier >= 6 else 0
    return BF16_LOADS if tier == 16 else tier & ~1


def least_products(name: str) -> int:
    """Return the tensor-core products its loop needs: one for each tile of columns, of each pair of planes."""
    tier = tier_of(name)
    return 0 if tier is None or not is_batch(name) else COLUMN_TILES * (2 if tier >= 6 else 1)


def measure(name: str, resources: Resources, code: Code) -> Kernel:
    """Take a kernel's figures. A step of a lane is 128 weights (2 loads a plane), 8 weights a load at tier 16."""
    tier = tier_of(name)
    if name == READER:
        return Kernel(resources, max((loop.count(WEIGHT_LOAD) for loop in code.loops()), default=0))
    if tier is None:
        return Kernel(resources)
    if is_batch(name):
        loop = code.inner_loop(TENSOR_CORE)
        counts = [loop.count(what) if loop else 0 for what in (WIDE_LOAD, TENSOR_CORE)]
        return Kernel(resources, counts[0], products=counts[1])
    loop = code.inner_loop(WEIGHT_LOAD)
    if loop is None:
        return Kernel(resources, 0)
    loads = loop.count(WEIGHT_LOAD)
    weights = 8 * loads if tier == 16 else 128 * loads / (tier & ~1)
    return Kernel(resources, loads, round(len(loop.instructions) / weights, 3))


def faults(name: str, kernel: Kernel) -> Iterator[str]:
    """Say what is wrong with a kernel."""
    used, tier = kernel.resources, tier_of(name)
    if used.spill_bytes or used.stack_bytes:
        yield f"{name}: {used.spill_bytes} bytes spilled, {used.stack_bytes} bytes of local memory"
    if used.registers > MOST_REGISTERS:
        yield f"{name}: {used.registers} registers, at most {MOST_REGISTERS}"
    loads, products = least_wide_loads(name), least_products(name)
    if (kernel.wide_loads or 0) < loads:
        yield f"{name}: its loop has {kernel.wide_loads or 0} loads of 16 bytes, at least {loads}"
    if (kernel.products or 0) < products:
        yield f"{name}: its loop has {kernel.products or 0} tensor-core products, at least {products}"
    if tier is not None and (kernel.instructions_a_weight or 0) > MOST_INSTRUCTIONS[tier]:
        yield f"{name}: {kernel.instructions_a_weight} instructions a weight, at most {MOST_INSTRUCTIONS[tier]}"


@dataclass(frozen=True)
class Toolchain:
    """Where NVIDIA's wheels lie."""

    folder: Path

    @property
    def nvcc(self) -> Path:
        """The compiler's program."""
        return self.folder / "cu13/bin/nvcc"

    @property
    def cuobjdump(self) -> Path:
        """The disassembler's program."""
        return self.folder / "cu13/bin/cuobjdump"

    def nvrtc(self, which: str) -> Path:
        """Path of a library, "nvrtc12" or "nvrtc13"."""
        name = "cuda_nvrtc/lib/libnvrtc.so.12" if which == "nvrtc12" else "cu13/lib/libnvrtc.so.13"
        return self.folder / name

    def missing(self) -> list[Path]:
        """What is not there."""
        wanted = [self.nvcc, self.cuobjdump, self.nvrtc("nvrtc12"), self.nvrtc("nvrtc13")]
        return [path for path in wanted if not path.exists()]


def find_toolchain(given: Path | None) -> Toolchain | None:
    """Find the wheels in a folder, or beside this interpreter's packages; None where there are none."""
    found = importlib.util.find_spec("nvidia") if given is None else None
    folders = (
        [given / "nvidia"] if given else [Path(p) for p in (found.submodule_search_locations or () if found else ())]
    )
    return next((Toolchain(folder) for folder in folders if not Toolchain(folder).missing()), None)


def compile_with(toolchain: Toolchain, compiler: str, arch: str) -> tuple[bytes, str]:
    """Compile the kernels; returns the cubin and the report of registers."""
    if compiler != "nvcc":
        return Nvrtc(str(toolchain.nvrtc(compiler))).compile(read_source(), arch, ("--ptxas-options=-v",))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "kernels.cubin"
        flags = [*OPTIONS, "-O3", f"-arch={arch}", "-cubin", "-Xptxas", "-v"]
        done = subprocess.run(
            [toolchain.nvcc, *flags, "-o", out, FOLDER / MAIN], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"gpu-compile: nvcc for {arch} failed:\n{done.stderr}")
        return out.read_bytes(), done.stderr


def disassemble(toolchain: Toolchain, image: bytes) -> dict[str, Code]:
    """Return the machine code of a cubin's kernels."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(image)
        file.flush()
        done = subprocess.run([toolchain.cuobjdump, "-sass", file.name], capture_output=True, text=True, check=True)
    return read_code(done.stdout)


def version_of(toolchain: Toolchain, compiler: str) -> str:
    """Return a compiler's version."""
    if compiler != "nvcc":
        return ".".join(map(str, Nvrtc(str(toolchain.nvrtc(compiler))).version))
    said = subprocess.run([toolchain.nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    return said.split("release ")[1].split(",")[0]


def describe(kernel: Kernel) -> dict[str, object]:
    """A kernel's figures as the result file has them."""
    names = ("wide_loads", "instructions_a_weight", "products")
    known = {name: value for name in names if (value := getattr(kernel, name)) is not None}
    return {"registers": kernel.resources.registers, **known}


def table(results: list[dict[str, Any]]) -> list[str]:
    """Return the page's table: for each compiler and architecture the decode kernels' instructions a weight."""
    lines = [
        "| compiler | GPU | tier 2 | tier 4 | tier 6 | tier 8 | bfloat16 | floats, tier 2 | floats, tier 4 "
        "| registers, at most |",
        "|---" * 10 + "|",
    ]
    for each in results:
        kernels = each["kernels"]
        both = [
            [kernels[f"hb_{m}_{tier}"]["instructions_a_weight"] for m in ("gate_up", "down")]
            for tier in (2, 4, 6, 8, 16, 3, 5)
        ]
        cells = [" / ".join(f"{figure:.2f}" for figure in pair) for pair in both]
        most = max(kernel["registers"] for kernel in kernels.values())
        lines.append(f"| {each['compiler']} | {each['arch']} | {' | '.join(cells)} | {most} |")
    return ["Gate and up / down:", "", *lines]


def page_with(text: str, results: list[dict[str, Any]]) -> str:
    """Return the page with its table."""
    return marked_page.put(text, "figures", "gpu_compile", table(results))


def main(arguments: list[str] | None = None) -> int:
    """Compile, check, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--toolchain", type=Path, help="folder of `pip install --target`; default: this environment")
    parser.add_argument("--cubins", type=Path, help="leave the kernels here, as a device looks for them")
    options = parser.parse_args(arguments)
    toolchain = find_toolchain(options.toolchain)
    if toolchain is None:
        print("gpu-compile: SKIPPED: NVIDIA's compilers are not installed, no kernel was compiled. "
              "Install them with: pip install -e '.[gpu-compile]'", file=sys.stderr)  # fmt: skip
        return 2
    results, wrong = [], []
    for compiler, archs in TARGETS.items():
        for arch in archs:
            image, log = compile_with(toolchain, compiler, arch)
            resources, code = read_resources(log), disassemble(toolchain, image)
            kernels = {name: measure(name, resources[name], code[name]) for name in sorted(resources)}
            wrong += [f"{compiler} {arch}: {said}" for name, kernel in kernels.items() for said in faults(name, kernel)]
            figures = {name: describe(kernel) for name, kernel in kernels.items()}
            version = version_of(toolchain, compiler)
            results.append({"compiler": f"{compiler.rstrip('0123456789')} {version}", "arch": arch, "kernels": figures})
            most = max(kernel.resources.registers for kernel in kernels.values())
            print(f"{compiler} {version} {arch}: {len(kernels)} kernels, {len(image)} bytes, at most {most} registers")
            if options.cubins and (compiler == "nvrtc12" or arch == "sm_110"):
                write_cubin(options.cubins / cubin_name(read_source(), arch), image)
    RESULT.write_text(
        json.dumps({"ran_on_a_gpu": False, "source": read_source().fingerprint(""), "results": results}, indent=1)
        + "\n",
        encoding="utf-8",
    )
    PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    print("\n".join(wrong) or f"gpu-compile: within the limits; figures in {RESULT.relative_to(ROOT)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
