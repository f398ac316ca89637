"""Runs probes one after another into one report: what each measured, or why it could not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import ConfigError, DeviceError, did_you_mean
from edge_runtime.lab.bench.folder import write_whole
from edge_runtime.lab.probes import PROBES, RegisteredProbe, Result, Subject
from edge_runtime.telemetry.hardware import describe_hardware

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ProbeOutcome:
    """What became of a probe: a result, or the reason there is none."""

    name: str
    result: Result | None
    why: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "result": None if self.result is None else self.result.to_json(),
            "not_measured_because": self.why,
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        return [f"not measured: {self.why}"] if self.result is None else self.result.lines()


def names_of(asked: Sequence[str], probes: Mapping[str, RegisteredProbe] = PROBES) -> list[str]:
    """Return the probes to run, in their own order; all of them if none is asked for.

    Raises:
        ConfigError: there is no such probe.
    """
    for name in asked:
        if name not in probes:
            raise ConfigError(
                f"--probe: expected one of {', '.join(probes)}, got {name!r}.{did_you_mean(name, probes)}"
            )
    return [name for name in probes if not asked or name in asked]


def run_probes(
    subject: Subject, names: Sequence[str], probes: Mapping[str, RegisteredProbe] = PROBES
) -> Iterator[ProbeOutcome]:
    """Run probes; one that cannot be measured does not keep the others from it."""
    for name in names:
        try:
            yield ProbeOutcome(name, probes[name].run(subject))
        except DeviceError as err:
            yield ProbeOutcome(name, None, str(err))


def report_json(subject: Subject, outcomes: Sequence[ProbeOutcome]) -> dict[str, Any]:
    """Return the report."""
    return {
        "format_version": FORMAT_VERSION,
        "measured_at": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ"),
        "version": version("hobbit-edge"),
        "bundle": subject.path.resolve().name,
        "bundle_id": subject.planned.bundle.manifest.bundle_id,
        "hardware": describe_hardware(subject.path, subject.root),
        "seconds": subject.seconds,
        "probes": {outcome.name: outcome.to_json() for outcome in outcomes},
    }


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write it, whole or not at all.

    Raises:
        RequestError: it cannot be written.
    """
    write_whole(path, json.dumps(report, indent=1).encode())
