"""Faults the backend's host code may have: with any of them the demo does not give the CPU backend's logits."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cuda.build import Fakes
from cuda.engine_program import FAULTS

TESTS = Path(__file__).parents[1]


def run(fakes: Fakes, folder: Path, bundle: Path, fault: str) -> tuple[int, str]:
    command = [
        sys.executable,
        "-m",
        "cuda.engine_program",
        str(fakes.libcuda),
        str(fakes.libnvrtc),
        str(folder),
        str(bundle),
        fault,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TESTS)
    assert done.returncode in (0, -signal.SIGSEGV), done.stderr
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_shows_when_work_runs_late(fakes: Fakes, kernel_folder: Path, model_bundle: Path, fault: str):
    _, expected = FAULTS[fault]
    assert run(fakes, kernel_folder, model_bundle, fault) == (0 if expected else -signal.SIGSEGV, expected)
