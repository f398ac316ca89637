"""A step of a bring-up, a run of one, and a bring-up that runs nothing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from edge_runtime.lab.bringup.bringup import Bringup
from edge_runtime.lab.bringup.runner import run_step
from edge_runtime.lab.bringup.steps import Step


def python(code: str, **more: Any) -> Step:
    return Step("it", "a step", (sys.executable, "-c", code), **more)


def run(step: Step, out: Path, seconds: float = 60) -> dict[str, Any]:
    return run_step(step, out, os.environ, seconds)


def content(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "hobbit-bringup.json").read_text()))


class Recorder:
    """Runs nothing; fails what it is told to."""

    def __init__(self, *failing: str) -> None:
        self.failing, self.ran = failing, list[str]()

    def __call__(self, step: Step, out: Path, environment: Any, seconds: float) -> dict[str, Any]:
        self.ran.append(step.name)
        return {"outcome": "failed" if step.name in self.failing else "passed", "stderr": f"in {out}/x"}


def bring_up(wanted: Bringup, recorder: Recorder) -> dict[str, str]:
    return wanted.run(lambda step, result: None, lambda step: None, recorder).outcomes()
