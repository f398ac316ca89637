"""Whether the machine is fit to measure: not hot, and its clock as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, perf_counter, sleep

from edge_runtime.base.checksum import crc32c
from edge_runtime.base.sizes import MIB

DEFAULT_CELSIUS = 80.0
_BELOW_TRIP = 10.0
_WORK = bytes(MIB)
_REPEATS = 64
_ENOUGH = 6


@dataclass
class TemperatureGate:
    """Waits until the hottest sensor is below a limit.

    Attributes:
        read: returns degrees Celsius of the hottest sensor; None: there is none, and nothing is waited for.
        limit: degrees Celsius.
        patience_s: longest wait.
        waited_s: in all.
        gave_up: how often it stayed hot.
    """

    read: Callable[[], float | None]
    limit: float = DEFAULT_CELSIUS
    patience_s: float = 300.0
    pause_s: float = 2.0
    sleep: Callable[[float], None] = sleep
    clock: Callable[[], float] = monotonic
    waited_s: float = 0.0
    gave_up: int = 0

    def wait(self) -> float | None:
        """Return the temperature at which it went on."""
        started = self.clock()
        while (celsius := self.read()) is not None and celsius >= self.limit:
            if self.clock() - started >= self.patience_s:
                self.gave_up += 1
                break
            self.sleep(self.pause_s)
        self.waited_s += self.clock() - started
        return celsius


@dataclass
class Sentinel:
    """A fixed load, run again and again: where its rate changes, the clock of the CPU did, or others ran.

    Attributes:
        work: runs it and returns its rate.
        tolerance: how far from the first rate counts as the same.
        rates: of every run, of the first one's.
    """

    work: Callable[[], float]
    tolerance: float = 0.10
    rates: list[float] = field(default_factory=list)
    _first: float = 0.0

    def check(self) -> float:
        """Run it; return its rate, of the first one's."""
        rate = self.work()
        self._first = self._first or rate
        self.rates.append(rate / self._first)
        return self.rates[-1]

    @property
    def is_hopeless(self) -> bool:
        """Whether it is off more often than not, so that measuring again would not help."""
        unsteady = sum(not self.is_steady(rate) for rate in self.rates)
        return len(self.rates) >= _ENOUGH and 2 * unsteady > len(self.rates)

    def is_steady(self, rate: float) -> bool:
        """Whether that is the first rate, as far as can be told."""
        return abs(rate - 1) <= self.tolerance


@dataclass(frozen=True)
class Fitness:
    """Says whether the machine is fit to measure."""

    gate: TemperatureGate
    sentinel: Sentinel


def checksum_rate() -> float:
    """Return GB/s of a checksum over the same MiB, the best of a few runs: a matter of the clock alone."""
    best = 0.0
    for _ in range(5):
        started = perf_counter()
        for _ in range(_REPEATS):
            crc32c(_WORK)
        best = max(best, _REPEATS * len(_WORK) / (perf_counter() - started) / 1e9)
    return best


def hottest(root: Path = Path("/")) -> float | None:
    """Return degrees Celsius of the hottest thermal zone; None if none can be read."""
    return max(_zone_values(root, "temp"), default=None)


def limit_of(root: Path = Path("/")) -> float:
    """Return where to wait: ten degrees below the lowest trip point at which the kernel slows down, or 80."""
    trips = []
    for kind in sorted((root / "sys/class/thermal").glob("thermal_zone*/trip_point_*_type")):
        try:
            if kind.read_text().strip() in ("passive", "hot"):
                trips.append(int(kind.with_name(kind.name.replace("_type", "_temp")).read_text()) / 1000)
        except (OSError, ValueError):
            continue
    sound = [trip for trip in trips if trip > 2 * _BELOW_TRIP]
    return min(sound) - _BELOW_TRIP if sound else DEFAULT_CELSIUS


def _zone_values(root: Path, name: str) -> list[float]:
    found = []
    for path in sorted((root / "sys/class/thermal").glob(f"thermal_zone*/{name}")):
        try:
            found.append(int(path.read_text()) / 1000)
        except (OSError, ValueError):
            continue
    return found
