"""Runs a step as processes of their own: its verb's flags, its folder; failure is a result."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

from edge_runtime.base.errors import HobbitError
from edge_runtime.bundle.manifest_file import read
from edge_runtime.bundle.record import BF16
from edge_runtime.lab.bringup.process import CUT, FAILED, MOST_JSON, PASSED, STILL_S, STUCK, Result, run_process
from edge_runtime.lab.bringup.steps import HOBBIT, Step

Run = Callable[[Step, Path, Mapping[str, str], float], Result]
NOT_AVAILABLE = "not available"
_SAID_OF_NOT_RUN = {2: "SKIPPED", 0: "SKIPPED, nothing was checked"}
"""How scripts of checks end where they cannot run, and what they say: refused options end with 2 as well. Checkouts of
before December 2026 ended with 0, as a check does that ran and left out a part."""


def run_step(step: Step, out: Path, environment: Mapping[str, str], most_s: float, still_s: float = STILL_S) -> Result:
    """Run a step; return its outcome: passed, failed, stuck, cut short, or not available, and what it said.

    Args:
        step: what to run; its folder is not there yet, see `empty`.
        out: folder of the bring-up; what the step writes goes below it.
        environment: of the process.
        most_s: seconds it may take.
        still_s: seconds it may stand still.

    Raises:
        RequestError: the folder has no room for what it prints.
    """
    end = time.monotonic() + most_s
    if why := _why_not(step):
        return {"outcome": NOT_AVAILABLE, "why": why}
    if step.verb:
        words = help_words(step.verb)
        step = replace(step, command=(*step.command, *(word for needed, word in step.optional if needed in words)))
    if step.folder:
        step = replace(step, command=(*step.command, "--out", str(out / step.folder)))
    if step.expert_share and step.takes:
        try:
            memory = expert_memory(step.takes, step.expert_share)
        except HobbitError as err:
            return {"outcome": NOT_AVAILABLE, "why": str(err)}
        step = replace(step, command=(*step.command, "--expert-memory", str(memory)))
    found = run_process(step.command, out, environment, end - time.monotonic(), still_s)
    if step.finds and found.get("exit") == 1 and "json" in found:
        return found | {"outcome": PASSED, "why": "it found something: see what it printed"}
    if found["outcome"] in (CUT, STUCK, FAILED) and "json" not in found:
        found |= measured_so_far(step, out)
    said = _SAID_OF_NOT_RUN.get(found.get("exit", 1))
    if said is not None and said in found["stderr"]:
        return found | {"outcome": NOT_AVAILABLE, "why": found["stderr"].strip().splitlines()[-1]}
    return found


def empty(step: Step, out: Path) -> str:
    """Remove what an earlier run left in a step's folder; return why that did not work, "" if it did."""
    if not step.folder:
        return ""
    try:
        shutil.rmtree(out / step.folder)
    except FileNotFoundError:
        return ""
    except OSError as err:
        where = err.filename or out / step.folder
        return f"{where}: of an earlier run, and cannot be removed: {err.strerror or err}. Remove it, as its owner."
    return ""


def expert_memory(bundle: Path, share: float) -> int:
    """Return the bytes that a share of a bundle's experts take, whole experts at the deepest tier that is served.

    Raises:
        HobbitError: it is no bundle.
    """
    manifest = read(bundle)
    experts = len(manifest.model.sparse_layers) * manifest.model.num_experts
    tier = max(tier for tier in manifest.experts.tiers if tier != BF16)
    return int(share * experts) * manifest.layout.tier_bytes(tier)


def _why_not(step: Step) -> str:
    """Return why a step cannot be run here and now; "" if it can."""
    if not step.why_not and step.takes is not None and not step.takes.is_dir():
        return f"step {step.needs!r} left nothing to take: see what it says"
    if not step.why_not and step.verb and not help_words(step.verb):
        return f"this version has no `hobbit {step.verb}`"
    return step.why_not


def measured_so_far(step: Step, out: Path) -> Result:
    """Return what a benchmark that did not end had measured by then; it is marked as incomplete."""
    report = out / step.folder / "report.json"
    with suppress(OSError, ValueError):
        if step.folder and report.stat().st_size <= MOST_JSON:
            return {"json": json.loads(report.read_text(encoding="utf-8"))}
    return {}


@cache
def help_words(verb: str) -> frozenset[str]:
    """Return the flags and names of arguments in a verb's help; none if this version does not have the verb."""
    done = subprocess.run(
        [*HOBBIT, "help", verb], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    return (
        frozenset(re.findall(r"(?<![\w-])(?:--?[a-z][\w-]*|[A-Z]+\b)", done.stdout))
        if done.returncode == 0
        else frozenset()
    )
