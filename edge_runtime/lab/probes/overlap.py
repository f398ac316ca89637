"""Probe: what drive and kernels lose when both work at once: they share memory, its bandwidth and the CPUs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

from edge_runtime.engine.parts import Parts
from edge_runtime.lab.probes.base import Subject
from edge_runtime.lab.probes.kernels import ResidentLayer
from edge_runtime.telemetry.drive_probe import DriveCeiling, Extent, probe_drive

SUMMARY = "overlap: drive and kernels at once, against each by itself"
_LEAST_S = 0.3


@dataclass(frozen=True)
class Overlap:
    """Rates of both, alone and together.

    Attributes:
        drive_alone, drive_together: probes.
        layers_s_alone, layers_s_together: layers of experts computed a second.
    """

    drive_alone: DriveCeiling
    drive_together: DriveCeiling
    layers_s_alone: float
    layers_s_together: float

    @property
    def drive_kept(self) -> float:
        """Share of the drive's rate left while kernels compute."""
        return self.drive_together.gbps / self.drive_alone.gbps

    @property
    def compute_kept(self) -> float:
        """Share of the kernels' rate left while the drive reads."""
        return self.layers_s_together / self.layers_s_alone

    @property
    def gain(self) -> float:
        """Time of reading and computing one after the other by that of both at once, where each takes as long.

        2 is ideal, 1 is nothing gained, below it overlapping loses.
        """
        return 2 * min(self.drive_kept, self.compute_kept)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        found = {name: round(getattr(self, name), 4) for name in ("drive_kept", "compute_kept", "gain")}
        return asdict(self) | found

    def lines(self) -> list[str]:
        """Return it for people."""
        return [
            f"together: the drive keeps {100 * self.drive_kept:.0f} % of {self.drive_alone.gbps:.2f} GB/s, kernels "
            f"{100 * self.compute_kept:.0f} % of {self.layers_s_alone:.0f} layers/s",
            f"overlapping equal work is {self.gain:.2f} times as fast as one after the other",
        ]


def run(subject: Subject) -> Overlap:
    """Measure.

    Raises:
        DeviceError: the drive cannot be measured, or the cache holds no layer's experts.
    """
    extents = subject.extents
    with subject.open_engine(prefetch="off", policy="lossless") as engine:
        return measure(engine.parts, extents, max(subject.seconds, _LEAST_S))


def measure(parts: Parts, extents: Sequence[Extent], seconds: float) -> Overlap:
    """Read alone, compute alone, then both."""

    def read() -> DriveCeiling:
        config = parts.config
        return probe_drive(
            extents, block_bytes=config.read_chunk, depth=config.io_threads, seconds=seconds, max_bytes=1 << 50
        )

    with ResidentLayer(parts, 1) as compute:
        alone = read()
        speed = _rate(compute, seconds)
        found: list[DriveCeiling | BaseException] = []

        def reader() -> None:
            try:
                found.append(read())
            except BaseException as err:  # noqa: BLE001 - raised in the thread that asked
                found.append(err)

        thread = threading.Thread(target=reader, daemon=True)
        thread.start()
        together = _rate(compute, seconds)
        thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return Overlap(alone, found[0], round(speed, 3), round(together, 3))


def _rate(compute: Callable[[], int], seconds: float) -> float:
    """Return calls a second."""
    count, started = 0, perf_counter()
    while (spent := perf_counter() - started) < seconds:
        compute()
        count += 1
    return count / spent
