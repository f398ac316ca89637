"""Faults a program over the driver may have: the fake driver makes each of them show."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cuda.build import Fakes

TESTS = Path(__file__).parents[1]
FAULTS = [
    "a stream does not wait for the upload",
    "staging is used again before the copy has run",
    "the result is read before the event",
    "the host touches device memory",
    "the event stands before the last copy",
    "memory of the host is given back without waiting",
]


def run(fakes: Fakes, folder: Path, mode: str, fault: str) -> tuple[int, str]:
    program = [sys.executable, str(Path(__file__).with_name("host_program.py"))]
    command = [*program, str(fakes.libcuda), str(fakes.libnvrtc), str(folder), mode, fault]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode in (0, -signal.SIGSEGV, -signal.SIGABRT), done.stderr
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize("mode", ["late", "1", "2", "3"])
def test_the_right_program_is_right_in_every_order(fakes: Fakes, tmp_path: Path, mode: str):
    assert run(fakes, tmp_path, mode, "none") == (0, "right")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_shows_when_work_runs_late(fakes: Fakes, tmp_path: Path, fault: str):
    assert run(fakes, tmp_path, "late", fault) != (0, "right")
