"""What a power meter is, and which of its figures can be believed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from edge_runtime.base.errors import DeviceError

MOST_W = 2000.0
"""No rail of a machine this runs on takes more; a sensor that says so is broken."""
_NOISE_W = 0.5
"""A current sensor around zero may read a little below it."""

Values = Mapping[str, "float | None"]
"""By rail: watts, or joules so far from a meter that counts energy. None: it could not be read, or is nonsense."""


class MeterInfo(NamedTuple):
    """What a report says about a meter.

    Attributes:
        name: its kind.
        method: how it measures, in words.
        rails: what it measures.
        total: the rails whose sum is the machine's power; empty: no such sum is known.
        covers: what the total includes, in words.
        counts_energy: it reads joules so far, not watts.
    """

    name: str
    method: str
    rails: tuple[str, ...]
    total: tuple[str, ...]
    covers: str
    counts_energy: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {**self._asdict(), "rails": list(self.rails), "total": list(self.total)}


class PowerMeter(Protocol):
    """Reads power or energy of named rails. One thread reads at a time."""

    @property
    def info(self) -> MeterInfo:
        """What it measures and how."""
        ...

    def read(self) -> Values:
        """Return what every rail says now; never raises for a sensor that fails."""
        ...

    def close(self) -> None:
        """Give back what it holds. Safe to call twice."""
        ...


def plausible_watts(watts: float) -> float | None:
    """Return a reading, a little noise below zero as 0; None for what no machine takes."""
    if -_NOISE_W <= watts < 0:
        return 0.0
    return watts if 0 <= watts <= MOST_W else None


def require_sense(meter: PowerMeter) -> PowerMeter:
    """Return a meter whose first reading makes sense; a running machine takes more than nothing.

    Raises:
        DeviceError: a rail of the total cannot be read, or all of them say 0; the meter is closed.
    """
    info, values = meter.info, meter.read()
    needed = info.total or info.rails
    bad = [rail for rail in needed if values.get(rail) is None]
    if bad:
        meter.close()
        raise DeviceError(f"{info.name}: {', '.join(bad)}: the sensor cannot be read, or its value makes no sense.")
    if not info.counts_energy and not any(values[rail] for rail in needed):
        meter.close()
        raise DeviceError(f"{info.name}: every rail says 0 W, which no running machine takes: the sensor is off.")
    return meter


def read_text(path: Path) -> str | None:
    """Return the text of a small file of the kernel, None if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """Return the number in a file of the kernel, None if it cannot be read or is no number."""
    text = read_text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
