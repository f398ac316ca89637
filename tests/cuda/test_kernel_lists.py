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
