"""Runs all steps, as far as the time goes. What fails is recorded, and nothing ends because of it."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edge_runtime.lab.bringup.checkout import digest_of_changes, source_tree
from edge_runtime.lab.bringup.folder_lock import held
from edge_runtime.lab.bringup.journal import BringupJournal
from edge_runtime.lab.bringup.machine import describe_machine
from edge_runtime.lab.bringup.modes import Enter, power_modes_of
from edge_runtime.lab.bringup.order import (
    INTERRUPTED,
    NOT_FINISHED,
    NOT_REACHED,
    TOOK_TOO_MUCH,
    in_order,
    kept_for_the_end,
    share_s,
    times_ended,
)  # fmt: skip
from edge_runtime.lab.bringup.privacy import Scrubber
from edge_runtime.lab.bringup.process import CUT, PASSED, STUCK, Result
from edge_runtime.lab.bringup.runner import NOT_AVAILABLE, Run, empty, measured_so_far, run_step
from edge_runtime.lab.bringup.steps import GPU_CHECK, GPU_CHECK_FOLDER, NVPMODEL_CONF, Step, steps_of

_MOST_GPU_CHECK, _MOST_SAID = 256 << 10, 300
_NOT_REACHED = {"outcome": NOT_REACHED, "why": "the time was over: run again, it goes on from here"}
_NOT_FINISHED = {"outcome": NOT_FINISHED, "why": "the time was over while it ran: run again, it goes on with this step"}
_BEGUN = {
    "outcome": INTERRUPTED,
    "why": "the bring-up ended while it ran: stopped, killed, or without power; run again, it comes last then",
}


@dataclass(frozen=True)
class Bringup:
    """A bring-up as it was asked for.

    Attributes:
        bundle: what is benchmarked; None: the demo.
        out: folder of the results.
        minutes: the whole may take.
        power_modes: power modes may be changed.
        again: steps that are run again though they passed; "all" for all.
        checkout: the source tree; None: looked for.
        root: under which etc/nvpmodel.conf is; tests pass a fake tree.
    """

    bundle: Path | None
    out: Path
    minutes: float = 30
    power_modes: bool = False
    again: tuple[str, ...] = ()
    checkout: Path | None = None
    root: Path = Path("/")

    def steps(self) -> list[Step]:
        """Return the steps, in order."""
        bundle = None if self.bundle is None else self.bundle.resolve()
        conf = self.root / NVPMODEL_CONF
        return list(steps_of(bundle, self.out.resolve(), self._tree(), power_modes=self.power_modes, conf=conf))

    def _tree(self) -> Path | None:
        places = [self.checkout] if self.checkout else [Path(__file__).parents[3], Path.cwd()]
        return next((place.resolve() for place in places if (place / GPU_CHECK).exists()), None)

    def run(
        self, said: Callable[[Step, Result], None], begun: Callable[[Step], None], run: Run = run_step
    ) -> BringupJournal:
        """Run what did not pass before.

        Args:
            said: told each outcome.
            begun: told before a step runs.
            run: runs one.

        Raises:
            ConfigError: the folder holds a file that is not a bring-up's, or another process measures into it.
            RequestError: it cannot be written.
            DeviceError: the board's power mode could not be set back.
        """
        with held(self.out):
            return self._run_all(said, begun, run)

    def _run_all(self, said: Callable[[Step, Result], None], begun: Callable[[Step], None], run: Run) -> BringupJournal:
        whole = 60 * self.minutes
        end = time.monotonic() + whole - kept_for_the_end(whole)
        names = {"BUNDLE": self.bundle, "OUT": self.out, "CHECKOUT": self._tree(), "FOLDER": Path.cwd()}
        paths = {name: path for name, path in names.items() if path is not None}
        journal = BringupJournal(self.out, Scrubber(paths), self.identity())
        journal.describe(machine=describe_machine(self.out))
        before, passed = journal.times_ended(), set[str]()
        steps = in_order(self.steps(), before)
        with power_modes_of(steps, self.root) as enter:
            run = _in_its_mode(run, enter)
            for place, step in enumerate(steps):
                if not self._is_due(step, journal, passed):
                    said(step, {"outcome": PASSED, "why": "before"})
                    continue
                behind = [each for each in steps[place + 1 :] if self._is_due(each, journal, passed)]
                others = any(not each.why_not and not times_ended(each, before) for each in behind)
                most_s = share_s(end - time.monotonic(), 60 * step.minutes, others=others)
                result = self._run(step, journal, most_s, begun, run)
                if result["outcome"] == PASSED:
                    passed.add(step.name)
                said(step, result)
        return journal

    def _is_due(self, step: Step, journal: BringupJournal, passed: set[str]) -> bool:
        """Whether a step is to be run, `passed` being those of this run."""
        return not journal.passed(step.name) or bool({"all", step.name} & set(self.again)) or step.needs in passed

    def _run(
        self, step: Step, journal: BringupJournal, most_s: float, begun: Callable[[Step], None], run: Run
    ) -> Result:
        times = journal.times_ended().get(step.name, 0)
        if most_s <= 0 and not step.why_not:
            result: Result = dict(_NOT_REACHED)
        else:
            begun(step)
            # emptied before anything else: what is in its folder is of this run, whenever that ends
            why = "" if step.why_not else empty(step, self.out.resolve())
            if why:
                result = {"outcome": NOT_AVAILABLE, "why": why}
            else:
                result = self._run_now(step, journal, most_s, run, _BEGUN | {"times_ended": times + 1})
        if result["outcome"] != PASSED:
            result["times_ended"] = times + (result["outcome"] in TOOK_TOO_MUCH)
        self._keep(step, journal, result)
        return result

    def _run_now(self, step: Step, journal: BringupJournal, most_s: float, run: Run, interrupted: Result) -> Result:
        journal.keep(step.name, interrupted)  # what a power cut or the kernel leaves there
        try:
            result = run(step, self.out.resolve(), self._environment(), most_s)
        except (KeyboardInterrupt, SystemExit):
            measured = {} if step.why_not else measured_so_far(step, self.out)
            self._keep(step, journal, interrupted | measured)
            raise
        return result | _NOT_FINISHED if result["outcome"] == CUT and most_s < 60 * step.minutes else result

    def _keep(self, step: Step, journal: BringupJournal, result: Result) -> None:
        journal.keep(step.name, result)
        if step.name == "gpu-check" and result["outcome"] != NOT_REACHED:  # what is known of this tree stays
            # a step that did not run has not emptied its folder: a file there may be another tree's
            ran = result["outcome"] != NOT_AVAILABLE
            journal.describe(gpu_check=_gpu_check_file(self.out / GPU_CHECK_FOLDER) if ran else None)

    def _environment(self) -> dict[str, str]:
        tree = self._tree()
        return {**os.environ, **({"PYTHONPATH": str(tree / "tests")} if tree else {}), "PYTHONUNBUFFERED": "1"}

    def identity(self) -> dict[str, Any]:
        """Return what results belong to: those of another version, commit, change or bundle do not count."""
        manifest = None if self.bundle is None else self.bundle / "manifest.json"
        identity = None
        if manifest is not None and manifest.is_file():
            from edge_runtime.bundle.manifest_file import read

            identity = read(manifest.parent).bundle_id
        tree = self._tree()
        # files that are new are the owner's as a rule: a bundle, a log
        source = {} if tree is None else source_tree(tree, new_files=False) | {"changes": digest_of_changes(tree)}
        return {"version": version("hobbit-edge"), "bundle": identity, **source}


def _gpu_check_file(folder: Path) -> Any:
    """Return what `make gpu-check` wrote, or None: no file, or one that a full drive cut short."""
    for path in sorted(folder.glob("gpu_check_*.json")):
        if path.stat().st_size <= _MOST_GPU_CHECK:
            with suppress(ValueError):
                return json.loads(path.read_text(encoding="utf-8"))
    return None


def _in_its_mode(run: Run, enter: Enter) -> Run:
    """Return what runs a step in its power mode; one that cannot be put in force is the reason why it is not run."""

    def run_in_mode(step: Step, out: Path, environment: Mapping[str, str], most_s: float) -> Result:
        begin = time.monotonic()
        if not step.why_not and (why := enter(step)):
            return {"outcome": NOT_AVAILABLE, "why": why}
        return run(step, out, environment, most_s - (time.monotonic() - begin))

    return run_in_mode


def summary_lines(journal: BringupJournal) -> Iterator[str]:
    """Yield what came of it, and what to do with the file."""
    outcomes = journal.outcomes()
    counted = Counter(outcomes.values())
    yield ", ".join(f"{count} {name}" for name, count in counted.items())
    for outcome in (NOT_REACHED, NOT_FINISHED, CUT, STUCK, INTERRUPTED):
        if names := [name for name, found in outcomes.items() if found == outcome]:
            yield f"{outcome.capitalize()}: {', '.join(names)}"
    for name, why in journal.did_not_fit().items():
        yield f"Did not fit into memory: {name}: {why[:_MOST_SAID]}"
    yield f"Send this one file: {journal.path}"
    yield "It holds: board, memory, drive model, versions of system and libraries, and what each step printed."
    yield "Not in it: names of user and machine, serial numbers, addresses, your paths, environment, texts of a model."
    if {NOT_REACHED, NOT_FINISHED, CUT, INTERRUPTED} & counted.keys():
        yield "Steps are left: run the same command again; --minutes N gives it more time."
