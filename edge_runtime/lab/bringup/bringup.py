"""Runs all steps, as far as the time goes. What fails is recorded, and nothing ends because of it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edge_runtime.lab.bringup.journal import Journal
from edge_runtime.lab.bringup.machine import describe_machine
from edge_runtime.lab.bringup.privacy import Scrubber
from edge_runtime.lab.bringup.runner import Run, run_step
from edge_runtime.lab.bringup.steps import GPU_CHECK, NVPMODEL, Step, steps_of

_MOST_GPU_CHECK = 256 << 10
NOT_REACHED = {"outcome": "not reached", "why": "the time was over: run again, it goes on from here"}


@dataclass(frozen=True)
class Bringup:
    """A bring-up as it was asked for.

    Attributes:
        bundle: what is benchmarked, or None.
        out: folder of the results.
        minutes: after these no step begins.
        power_modes: power modes may be changed.
        again: steps that are run again though they passed; "all" for all.
        checkout: the source tree; None: looked for.
    """

    bundle: Path | None
    out: Path
    minutes: float = 30
    power_modes: bool = False
    again: tuple[str, ...] = ()
    checkout: Path | None = None

    def steps(self) -> list[Step]:
        """Return the steps, in order."""
        bundle = None if self.bundle is None else self.bundle.resolve()
        return list(steps_of(bundle, self.out.resolve(), self._tree(), power_modes=self.power_modes))

    def _tree(self) -> Path | None:
        places = [self.checkout] if self.checkout else [Path(__file__).parents[3], Path.cwd()]
        return next((place.resolve() for place in places if (place / GPU_CHECK).exists()), None)

    def run(
        self, said: Callable[[Step, dict[str, Any]], None], begun: Callable[[Step], None], run: Run = run_step
    ) -> Journal:
        """Run what did not pass before.

        Args:
            said: told each outcome.
            begun: told before a step runs.
            run: runs one.

        Raises:
            ConfigError: the folder holds a file that is not a bring-up's.
            RequestError: it cannot be written.
        """
        names = {"BUNDLE": self.bundle, "OUT": self.out, "CHECKOUT": self._tree(), "FOLDER": Path.cwd()}
        paths = {name: path for name, path in names.items() if path is not None}
        journal = Journal(self.out, Scrubber(paths), self._about())
        journal.describe(machine=describe_machine(self.out))
        end, steps = time.monotonic() + 60 * self.minutes, self.steps()
        with _keep_power_mode(steps):
            for step in steps:
                if journal.passed(step.name) and not {"all", step.name} & set(self.again):
                    said(step, {"outcome": "passed", "why": "before"})
                    continue
                left = end - time.monotonic()
                if left <= 0:
                    result: dict[str, Any] = dict(NOT_REACHED)
                else:
                    begun(step)
                    result = run(step, self.out.resolve(), self._environment(), left)
                journal.keep(step.name, result)
                if step.name == "gpu-check":
                    journal.describe(gpu_check=_gpu_check_file(self.out))
                said(step, result)
        return journal

    def _environment(self) -> dict[str, str]:
        tree = self._tree()
        return {**os.environ, **({"PYTHONPATH": str(tree / "tests")} if tree else {}), "PYTHONUNBUFFERED": "1"}

    def _about(self) -> dict[str, Any]:
        manifest = None if self.bundle is None else self.bundle / "manifest.json"
        identity = None
        if manifest is not None and manifest.is_file():
            from edge_runtime.bundle.manifest_file import read

            identity = read(manifest.parent).bundle_id
        return {"version": version("hobbit-edge"), "bundle": identity}


def _gpu_check_file(out: Path) -> Any:
    """Return what `make gpu-check` wrote, or None: no file, or one that a full drive or a time limit cut short."""
    for path in sorted(out.glob("gpu_check_*.json")):
        if path.stat().st_size <= _MOST_GPU_CHECK:
            with suppress(ValueError):
                return json.loads(path.read_text(encoding="utf-8"))
    return None


@contextmanager
def _keep_power_mode(steps: Iterable[Step]) -> Iterator[None]:
    """Go back to the power mode there was, whatever steps do."""
    words = _nvpmodel("-q").split() if any(step.before for step in steps) else []
    try:
        yield
    finally:
        if words and words[-1].isdigit():
            _nvpmodel("-m", words[-1])


def _nvpmodel(*words: str) -> str:
    try:
        done = subprocess.run(
            (NVPMODEL, *words), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def summary_lines(journal: Journal) -> Iterator[str]:
    """Yield what came of it, and what to do with the file."""
    outcomes = journal.outcomes()
    counted = {name: list(outcomes.values()).count(name) for name in dict.fromkeys(outcomes.values())}
    yield ", ".join(f"{count} {name}" for name, count in counted.items())
    yield f"Send this one file: {journal.path}"
    yield "It holds: board, memory, drive model, versions of system and libraries, and what each step printed."
    yield "Not in it: names of user and machine, serial numbers, addresses, your paths, environment, texts of a model."
    if NOT_REACHED["outcome"] in counted:
        yield "Steps are left: run the same command again."
