"""What a machine runs under: temperatures, clocks, throttling, power mode. What cannot be read is absent, never 0."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from edge_runtime.telemetry.power.base import read_int, read_text

_COLDEST_C, _HOTTEST_C = -40.0, 150.0
_FANS = ("fan", "pwm")
_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>")
_STATUS = re.compile(r"pmode:(\d+)")


class ActivePowerMode(NamedTuple):
    """A Jetson's nvpmodel mode; its name is None where nvpmodel.conf does not say it."""

    number: int
    name: str | None


class Conditions(NamedTuple):
    """At one moment.

    Attributes:
        temperatures_c: by thermal zone.
        clocks_hz: by processor cluster or device.
        limited: cooling devices that slow something down now, by name, with how far.
        throttle_events: counters of the kernel that only grow, by name.
        power_mode: None on boards without.
    """

    temperatures_c: dict[str, float]
    clocks_hz: dict[str, int]
    limited: dict[str, int]
    throttle_events: dict[str, int]
    power_mode: ActivePowerMode | None

    @property
    def hottest_c(self) -> float | None:
        """The highest temperature; None if none can be read."""
        return max(self.temperatures_c.values(), default=None)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {**self._asdict(), "power_mode": self.power_mode._asdict() if self.power_mode else None}


def read_conditions(root: Path = Path("/")) -> Conditions:
    """Read everything once; some dozens of small files."""
    return Conditions(temperatures(root), clocks(root), limited(root), throttle_events(root), power_mode(root))


def temperatures(root: Path = Path("/")) -> dict[str, float]:
    """Return degrees Celsius by thermal zone; zones that are off or say nonsense are left out."""
    found: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*"), key=_number):
        milli = read_int(zone / "temp")  # an Orin's zones of parts that are off answer with an error
        if milli is not None and _COLDEST_C < milli / 1000 < _HOTTEST_C:
            found[_unique(found, read_text(zone / "type") or zone.name)] = milli / 1000
    return found


def clocks(root: Path = Path("/")) -> dict[str, int]:
    """Return hertz by CPU cluster (cpufreq, in kHz there) and device with a clock of its own (devfreq)."""
    found: dict[str, int] = {}
    for policy in sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"), key=_number):
        khz = read_int(policy / "scaling_cur_freq")
        if khz:
            found[policy.name.replace("policy", "cpu")] = khz * 1000
    for device in sorted((root / "sys/class/devfreq").glob("*")):
        hz = read_int(device / "cur_freq")
        if hz:
            found[device.name] = hz
    return found


def limited(root: Path = Path("/")) -> dict[str, int]:
    """Return cooling devices other than fans that are at work now."""
    found: dict[str, int] = {}
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*"), key=_number):
        kind, state = read_text(device / "type") or device.name, read_int(device / "cur_state")
        if state and not any(word in kind for word in _FANS):
            found[_unique(found, kind)] = state
    return found


def throttle_events(root: Path = Path("/")) -> dict[str, int]:
    """Return the kernel's counts of throttling: over-current of a Jetson, heat of x86; a Pi's alarm of low voltage."""
    found: dict[str, int] = {}
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*"), key=_number):
        for file in sorted(folder.glob("oc*_event_cnt")):
            _put(found, file.name.removesuffix("_event_cnt"), read_int(file))
        if read_text(folder / "name") == "rpi_volt":
            _put(found, "under_voltage", read_int(folder / "in0_lcrit_alarm"))
    for kind in ("core", "package"):
        files = (root / "sys/devices/system/cpu").glob(f"cpu[0-9]*/thermal_throttle/{kind}_throttle_count")
        counts = [count for file in files if (count := read_int(file)) is not None]
        _put(found, kind, max(counts, default=None))
    return found


def power_mode(root: Path = Path("/")) -> ActivePowerMode | None:
    """Return the mode nvpmodel keeps in its status file; None on boards without."""
    status = _STATUS.search(read_text(root / "var/lib/nvpmodel/status") or "")
    if status is None:
        return None
    number = int(status[1])
    return ActivePowerMode(number, dict(power_modes(root)).get(number))


def power_modes(root: Path = Path("/")) -> list[tuple[int, str]]:
    """Return the modes of the board by number, as /etc/nvpmodel.conf names them."""
    return [(int(number), name) for number, name in _MODE.findall(read_text(root / "etc/nvpmodel.conf") or "")]


def _unique(found: dict[str, Any], name: str) -> str:
    return name if name not in found else f"{name}@{len(found)}"


def _put(found: dict[str, int], name: str, value: int | None) -> None:
    if value is not None:
        found[name] = value


def _number(folder: Path) -> int:
    digits = re.search(r"\d+$", folder.name)
    return int(digits[0]) if digits else 0
