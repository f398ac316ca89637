"""Energy counters of processors (RAPL) through the kernel's powercap: Intel, and AMD since Zen.

`energy_uj` counts microjoules and starts again after `max_energy_range_uj`; at 300 W that takes some 200 s. Since 2020
only root may read it (CVE-2020-8694).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edge_runtime.base.errors import DeviceError
from edge_runtime.telemetry.power.base import MeterInfo, PowerMeter, Values, read_int, read_text, require_sense
from edge_runtime.telemetry.power.sensor_file import SensorFile

_FOLDER = "sys/class/powercap"
_UNIT = 1e-6


class Counter:
    """One domain's energy, as joules since it was opened.

    Args:
        file: microjoules, which start again after `range_uj`.
        range_uj: greatest value of the counter.
    """

    def __init__(self, file: SensorFile, range_uj: int) -> None:
        self._file, self._range, self._last, self._total = file, range_uj, file.read(), 0

    def joules(self) -> float | None:
        """Return joules so far; None if the counter cannot be read or says what it cannot count to."""
        now = self._file.read()
        if now is None or not 0 <= now <= self._range:
            return None
        if self._last is not None:
            self._total += now - self._last if now >= self._last else now + self._range - self._last
        self._last = now
        return self._total * _UNIT

    def close(self) -> None:
        """Close its file."""
        self._file.close()


class RaplMeter:
    """Implements `PowerMeter`."""

    def __init__(self, counters: dict[str, Counter]) -> None:
        self._counters = counters
        rails = tuple(counters)
        total = ("psys",) if "psys" in rails else tuple(r for r in rails if r.startswith(("package", "dram")))
        covers = (
            "the platform as the board's maker wired it"
            if "psys" in rails
            else "processor packages and, where counted, their memory; drive, fans and supply are not included"
        )
        self.info = MeterInfo("rapl", "RAPL energy counters through powercap", rails, total, covers, counts_energy=True)

    def read(self) -> Values:
        """See `PowerMeter.read`."""
        return {rail: counter.joules() for rail, counter in self._counters.items()}

    def close(self) -> None:
        """See `PowerMeter.close`."""
        for counter in self._counters.values():
            counter.close()


def open_meter(root: Path) -> PowerMeter:
    """Open every RAPL domain.

    Raises:
        DeviceError: there is none, or it cannot be read.
    """
    counters: dict[str, Counter] = {}
    try:
        for name, folder in _domains(root / _FOLDER):
            counters[name] = Counter(SensorFile(folder / "energy_uj"), read_int(folder / "max_energy_range_uj") or 0)
    except OSError as err:
        for counter in counters.values():
            counter.close()
        raise DeviceError(
            f"rapl: /{_FOLDER}: energy_uj: {err.strerror}. Only root may read it: run as root, or "
            "`sudo chmod a+r /sys/class/powercap/*/energy_uj` until the next boot."
        ) from err
    if not counters:
        raise DeviceError(f"rapl: no energy counter under /{_FOLDER}.")
    return require_sense(RaplMeter(counters))


def _domains(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every domain once; those of intel-rapl-mmio are the packages a second time."""
    for path in sorted(folder.glob("intel-rapl:*")):
        name = read_text(path / "name")
        if name is None:
            continue
        package = path.name.split(":")[1]
        is_part = path.name.count(":") > 1
        yield (f"{name}-{package}" if is_part else name), path
