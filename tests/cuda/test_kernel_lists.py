"""What runs every kernel runs every kernel: the program the sanitisers look at, and the checks planted faults go through."""

from __future__ import annotations

import re
import subprocess

from cuda.build import KERNELS as FOLDER
from cuda.build import SHIM, launch_bounds

PROGRAM = SHIM / "all_kernels.cpp"


def own_text() -> str:
    """The program behind the preprocessor, without what it includes."""
    command = ["g++", "-std=c++17", "-E", "-DHB_HOST", f"-I{SHIM}", f"-I{FOLDER}", str(PROGRAM)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found, is_own = [], False
    for line in text.splitlines():
        if marker := re.match(r'# \d+ "(.*?)"', line):
            is_own = marker[1] == str(PROGRAM)
        elif is_own:
            found.append(line)
    return "\n".join(found)


def test_the_sanitisers_see_every_kernel():
    launched = set(re.findall(r"\b(hb_\w+)\(", own_text()))
    assert launched == set(launch_bounds())


BARRIERS = {"__syncthreads", "__syncwarp"}
"""They give no number; the sanitisers take their effect away and see what breaks."""
BIT_CASTS = {"__float_as_int"}
"""The other way round is what the self-test reads its floats by."""


def test_the_self_test_runs_every_function_a_device_alone_has():
    """Those that platform.cuh makes of instructions, and those that CUDA brings."""
    text = {path.name: re.sub(r"//.*", "", path.read_text()) for path in FOLDER.glob("*.cu*")}
    own = re.findall(r"HB_DEV [\w ]+? (\w+)\(", text["platform.cuh"].partition("#else")[2].partition("#endif")[0])
    brought = {name for each in text.values() for name in re.findall(r"\b(__\w+)\(", each)} - {
        "__launch_bounds__",
        "__align__",
    }
    assert len(own) >= 7
    assert {"__dp4a", "__shfl_sync"} < brought
    run = set(re.findall(r"\b(\w+)\(", text["self_test.cuh"].partition("{")[2]))
    assert {*own, *brought} - BARRIERS - BIT_CASTS - run == set()
