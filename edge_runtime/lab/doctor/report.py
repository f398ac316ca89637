"""Looks for every trap, runs a model, and says what was found: text, JSON, exit code."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.base.errors import ConfigError, did_you_mean
from edge_runtime.lab.doctor import checks
from edge_runtime.lab.doctor.device import Device
from edge_runtime.lab.doctor.findings import CHECKS, Finding, findings_of
from edge_runtime.lab.doctor.runs import Run, run_backends, run_findings

assert checks is not None
RUNS = ("inference", "gpu-unused")
"""Names of findings that come of running a model, not of files."""
_WIDTH, _INDENT = 100, " " * 9


@dataclass(frozen=True)
class Diagnosis:
    """What was found on a machine.

    Attributes:
        board: what it is.
        profile: that `--profile auto` takes.
        looked_for: names of the checks.
        findings: errors before warnings.
        runs: by backend; empty where none was run.
    """

    board: str
    profile: str
    looked_for: tuple[str, ...]
    findings: tuple[Finding, ...]
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0: nothing found; 1: something was."""
        return 1 if self.findings else 0

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "board": self.board,
            "profile": self.profile,
            "checks": list(self.looked_for),
            "findings": [finding.to_json() for finding in self.findings],
            "runs": self.runs,
        }

    def lines(self) -> Iterator[str]:
        """Yield it for people."""
        yield f"{self.board}"
        yield f"profile {self.profile}, {len(self.looked_for)} checks"
        for name, run in self.runs.items():
            yield from _wrapped(f"{name:<8} ", _run_line(run))
            for what, why in _chosen(run.get("choices", {})):
                yield from _wrapped(f"{'':<8} ", f"{what}: {why}")
        for finding in self.findings:
            yield ""
            yield from _wrapped(f"{finding.severity:<8} ", f"{finding.check}: {finding.finding}")
            yield from _wrapped(f"{'why':>7}  ", finding.why)
            yield f"{'fix':>7}  {finding.fix}"
        yield ""
        yield "nothing found" if not self.findings else f"{len(self.findings)} found"


def _run_line(run: dict[str, Any]) -> str:
    if run["state"] != "ran":
        return f"{run['state']}: {run.get('why', '')}"
    speed = "speed not measured" if run["tok_s"] is None else f"{run['tok_s']:.0f} tok/s"
    return (
        f"ran: logits correlate {run['correlation']:.5f} with the exporter's (at least "
        f"{run['expected_correlation']:.3f} is expected), {run['tokens']} tokens at {speed}"
    )


def _chosen(choices: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a backend chose, and why: each choice whose reason stands beside it."""
    for name, value in choices.items():
        if (why := choices.get(f"{name}_reason")) is not None:
            yield f"{name} {value}", str(why)


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=label, subsequent_indent=_INDENT, break_on_hyphens=False)


def diagnose(
    device: Device, *, skip: Collection[str] = (), runs_model: bool = True, run: Run | None = None
) -> Diagnosis:
    """Look for every trap on a machine.

    Args:
        device: the machine.
        skip: names of checks to leave out.
        runs_model: run a model on every backend; only on this machine.
        run: see `run_backends`.

    Raises:
        ConfigError: there is no check of a name in `skip`.
    """
    known = (*CHECKS, *RUNS)
    for name in skip:
        if name not in known:
            raise ConfigError(f"skip: expected the name of a check, got {name!r}.{did_you_mean(name, known)}")
    chosen = [one for name, one in CHECKS.items() if name not in skip]
    found = [finding for one in chosen for finding in findings_of(one, device)]
    runs = run_backends(device, run) if runs_model else {}
    found += [finding for finding in run_findings(device, runs) if finding.check not in skip]
    found.sort(key=lambda finding: finding.severity)
    board = device.board.model or f"{device.board.machine} machine"
    return Diagnosis(board, device.profile.name, tuple(one.name for one in chosen), tuple(found), runs)
