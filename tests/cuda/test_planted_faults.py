"""Faults planted in the kernels are found, each one, and the source without one passes all that finds them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cuda.build import (
    BOUNDS,
    COMPILER,
    DRIVER_PARTS,
    KERNELS,
    SHIM,
    UNITS,
    Fakes,
    compile_command,
    link_driver,
    run,
    unit_command,
)
from cuda.planted import FAULTS, Fault

pytestmark = pytest.mark.planted
TESTS = Path(__file__).parents[1]
UNITS_OF = {
    **dict.fromkeys(("record.cuh", "codes.cuh", "dot_panel.cuh", "decode.cuh", "batch.cuh"), ("experts",)),
    **dict.fromkeys(("layer.cuh", "route.cuh", "reading.cuh"), ("layers",)),
    **dict.fromkeys(("dense.cuh", "linear.cuh", "attention.cuh", "latent.cuh", "recurrence.cuh"), ("trunk",)),
}
"""By file, the parts of the kernels it is in; others are in all."""
DEBUG = ("-g", "-O1", "-DHB_HOST", "-U_FORTIFY_SOURCE")


def plant(fault: Fault, folder: Path) -> Path:
    kernels = folder / "kernels"
    shutil.copytree(KERNELS, kernels)
    text = (kernels / fault.file).read_text()
    assert text.count(fault.old) == 1, f"{fault.file} has the text to replace {text.count(fault.old)} times"
    (kernels / fault.file).write_text(text.replace(fault.old, fault.new))
    return kernels


def start(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, **environment}
    )


class Detectors:
    """What looks for faults, over a folder of kernels."""

    def __init__(self, fakes: Fakes, folder: Path) -> None:
        self._fakes, self._folder = fakes, folder

    def numbers(self, kernels: Path, file: str = "") -> str:
        """The tests of the kernels; returns the last line of the error, or nothing.

        Args:
            kernels: folder of their source.
            file: the one with a fault. What it is in is compiled, and tested first.
        """
        library, units = self._folder / "libcuda.so.1", UNITS_OF.get(file, tuple(UNITS))
        run([unit_command(unit, self._folder, kernels) for unit in units])
        base = self._fakes.libcuda.parent
        others = [base / f"{name}.o" for name in (*DRIVER_PARTS, BOUNDS, *UNITS) if name not in units]
        link_driver([*others, *(self._folder / f"{unit}.o" for unit in units)], library)
        program = [sys.executable, str(Path(__file__).with_name("kernel_checks.py"))]
        command = [*program, str(library), str(self._fakes.libnvrtc), str(self._folder), *units]
        done = start(command, PYTHONPATH=str(TESTS))
        if done.returncode == 0:
            assert done.stdout.strip() == "passed"
            return ""
        said = done.stderr.strip().splitlines()
        assert said or done.returncode == -signal.SIGSEGV, f"ended with {done.returncode}, and nothing was said"
        return said[-1] if said else "a kernel left its memory"

    def race(self, kernels: Path, file: str = "") -> str:
        """ThreadSanitizer, with the shim itself out of its sight."""
        parts = [self._folder / f"{name}.o" for name in ("fibers", "loads", "all_kernels")]
        run(
            [
                compile_command(SHIM / "fibers.cpp", parts[0], *DEBUG, "-DSHIM_TSAN"),
                compile_command(SHIM / "loads.cpp", parts[1], *DEBUG),
                compile_command(SHIM / "all_kernels.cpp", parts[2], *DEBUG, "-w", "-fsanitize=thread", kernels=kernels),
            ]
        )
        return self._sanitised(parts, "-fsanitize=thread", "WARNING: ThreadSanitizer")

    def address(self, kernels: Path, file: str = "") -> str:
        """AddressSanitizer and UBSan."""
        checked = (*DEBUG, "-w", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-DSHIM_ASAN")
        names = ("fibers", "loads", "all_kernels")
        parts = [self._folder / f"{name}.o" for name in names]
        run(
            [
                compile_command(SHIM / f"{n}.cpp", out, *checked, kernels=kernels)
                for n, out in zip(names, parts, strict=True)
            ]
        )
        return self._sanitised(parts, "-fsanitize=address,undefined", "ERROR: AddressSanitizer")

    def _sanitised(self, parts: list[Path], flag: str, sign: str) -> str:
        program = self._folder / "all_kernels"
        run([[*COMPILER, flag, *map(str, parts), "-o", str(program)]])
        # fibers look like returned stacks to some of the checks
        options = "detect_leaks=0:detect_stack_use_after_return=0"
        done = start([str(program), "3", *self.arguments], ASAN_OPTIONS=options)
        if done.returncode == 0 and not done.stderr.count(sign):
            assert done.stdout.strip() == "finished"
            return ""
        return next((line for line in done.stderr.splitlines() if line.startswith("SUMMARY")), done.stderr[-300:])

    arguments: tuple[str, ...] = ("quick",)


@pytest.fixture
def detectors(fakes: Fakes, tmp_path: Path) -> Detectors:
    return Detectors(fakes, tmp_path)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_found(detectors: Detectors, tmp_path: Path, fault: Fault):
    said = getattr(detectors, fault.found_by)(plant(fault, tmp_path), fault.file)
    print(f"{fault.name}: {said}")
    assert said, f"{fault.found_by} does not find it"


@pytest.mark.parametrize("detector", ["numbers", "race", "address"])
def test_the_source_as_it_is_passes(detectors: Detectors, detector: str):
    detectors.arguments = ()
    assert getattr(detectors, detector)(KERNELS) == ""
