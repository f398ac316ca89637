"""Probe: the drive for half a minute and more, so that a drive that becomes hot and slows down is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from edge_runtime.base.errors import DeviceError
from edge_runtime.lab.probes.base import Subject
from edge_runtime.telemetry.drive_link import DriveLink, describe_link
from edge_runtime.telemetry.drive_probe import DriveCeiling, probe_drive

SUMMARY = "drive: 30 s and more of the runtime's own reads, with temperature (--sustained)"
_THIRD = 3
_THROTTLED = 0.9
"""Of the first third's rate: below it the last third counts as throttled."""


@dataclass(frozen=True)
class SustainedDrive:
    """A long probe.

    Attributes:
        ceiling: the whole of it, with samples.
        celsius_before, celsius_after: of the drive; None where nobody says.
    """

    ceiling: DriveCeiling
    celsius_before: float | None
    celsius_after: float | None

    @property
    def kept(self) -> float | None:
        """Rate of the last third of the time, as a share of the first's; None with fewer than three samples."""
        return share_kept(self.ceiling.gbps_samples)

    @property
    def is_throttled(self) -> bool | None:
        """Whether the drive became slower."""
        return None if self.kept is None else self.kept < _THROTTLED

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return self.ceiling.to_json() | {
            "kept": self.kept,
            "is_throttled": self.is_throttled,
            "celsius_before": self.celsius_before,
            "celsius_after": self.celsius_after,
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        kept = "too short to say whether it slows down" if self.kept is None else (
            f"{100 * self.kept:.0f} % of the first third's rate in the last{', it THROTTLES' * bool(self.is_throttled)}"
        )  # fmt: skip
        warm = [f"{name} {value:g} C" for name, value in
                (("before", self.celsius_before), ("after", self.celsius_after)) if value is not None]  # fmt: skip
        return [
            f"{self.ceiling.gbps:.2f} GB/s over {self.ceiling.seconds:.0f} s; {kept}",
            "temperature: " + (", ".join(warm) or "not measured, no sensor"),
        ]


def share_kept(samples: Sequence[float]) -> float | None:
    """Return the median of the last third of samples over that of the first; None with too few or no rate."""
    size = len(samples) // _THIRD
    if not size or not (first := median(samples[:size])):
        return None
    return round(median(samples[-size:]) / first, 4)


def run(subject: Subject) -> SustainedDrive:
    """Read as the runtime does, for as long as was asked.

    Raises:
        DeviceError: it was not asked for, or the drive cannot be measured.
    """
    if not subject.sustained_s:
        raise DeviceError("left out: --sustained S asks for it.")
    config = subject.planned.config

    def link() -> DriveLink:
        return describe_link(subject.path, subject.root)

    before = link().celsius
    ceiling = probe_drive(
        subject.extents,
        block_bytes=config.read_chunk,
        depth=config.io_threads,
        seconds=subject.sustained_s,
        max_bytes=1 << 50,
    )
    return SustainedDrive(ceiling, before, link().celsius)
