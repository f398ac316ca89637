"""Heat, and what boards say about having been throttled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edge_runtime.lab.doctor.device import Device
from edge_runtime.lab.doctor.findings import Found, check

_HOT, _DRIVE_HOT, _MARGIN = 85_000, 70_000, 3_000
"""Thousandths of a degree Celsius, as the kernel counts."""
_UNDER_VOLTAGE, _SLOWED = (0, 16), (1, 2, 3, 17, 18, 19)
"""Bits of Raspberry Pi's get_throttled: now, and since the boot."""


@check(
    "hot", "warning", "a board near the temperature at which it slows down",
    why="Throttled clocks make every figure wrong: one study lost 40 % without noticing.",
    fix="clear the fan and the heat sink; on Jetson: FAN_DEFAULT_PROFILE cool in /etc/nvfancontrol.conf",
)  # fmt: skip
def hot(device: Device) -> Iterator[Found]:
    """A thermal zone is at 85 degrees, or within 3 of its passive trip."""
    for zone in device.glob("sys/class/thermal/thermal_zone*"):
        now, trip = device.number(zone / "temp"), _passive_trip(device, zone)
        if now is not None and now >= min(_HOT, trip - _MARGIN if trip else _HOT):
            yield Found(f"{device.words(zone / 'type') or zone.name} is at {now / 1000:.0f} °C")


def _passive_trip(device: Device, zone: Path) -> int | None:
    trips = [
        device.number(str(path).removesuffix("_type") + "_temp")
        for path in device.glob(f"{zone.relative_to(device.root)}/trip_point_*_type")
        if device.words(path) == "passive"
    ]
    return min((trip for trip in trips if trip and trip > 30_000), default=None)


@check(
    "drive-hot", "warning", "an NVMe drive near the temperature at which it slows down",
    why="Drives without a heat sink read fast for half a minute and then a half or a third.",
    fix="put a heat sink on the drive, or lead air over it", where="NVMe",
)  # fmt: skip
def drive_hot(device: Device) -> Iterator[Found]:
    """At 70 degrees, or within 5 of the drive's own warning."""
    for pattern in ("sys/class/nvme/nvme*/hwmon*", "sys/class/nvme/nvme*/device/hwmon/hwmon*"):
        for folder in device.glob(pattern):
            now, warning = device.number(folder / "temp1_input"), device.number(folder / "temp1_max")
            if now is not None and now >= min(_DRIVE_HOT, (warning or 200_000) - 5_000):
                name = next(part for part in folder.parts if part.startswith("nvme") and part != "nvme")
                yield Found(f"{name} is at {now / 1000:.0f} °C")


@check(
    "over-current", "warning", "a board that was throttled because it drew too much current",
    why="The hardware halves clocks for moments, which no clock reading shows.",
    fix="use the supply that came with the board, or a lower mode: sudo nvpmodel -m ID", where="Jetson",
)  # fmt: skip
def over_current(device: Device) -> Iterator[Found]:
    """A counter of over-current events is above 0."""
    for path in device.glob("sys/class/hwmon/hwmon*/oc*_event_cnt"):
        count = device.number(path)
        if count:
            yield Found(f"{path.name.removesuffix('_event_cnt').upper()} counted {count} events since the boot")


@check(
    "under-voltage", "warning", "a Raspberry Pi that had too little voltage",
    why="It halves its clocks then; drives may drop off the bus.",
    fix="use the 27 W supply and a short cable", where="Raspberry Pi",
)  # fmt: skip
def under_voltage(device: Device) -> Iterator[Found]:
    """Bits 0 and 16 of get_throttled."""
    if said := _when(_throttled(device), _UNDER_VOLTAGE):
        yield Found(f"voltage was too low {said}")


@check(
    "throttled", "warning", "a Raspberry Pi that lowered its clocks",
    why="Figures measured then are those of another machine.",
    fix="cool it: the Active Cooler keeps a Raspberry Pi 5 below 70 °C", where="Raspberry Pi",
)  # fmt: skip
def throttled(device: Device) -> Iterator[Found]:
    """Bits 1 to 3 and 17 to 19 of get_throttled."""
    if said := _when(_throttled(device), _SLOWED):
        yield Found(f"clocks were lowered {said}")


def _throttled(device: Device) -> int:
    for path in device.glob("sys/devices/platform/*/*firmware/get_throttled"):
        text = device.words(path).removeprefix("0x")
        if text and all(letter in "0123456789abcdef" for letter in text):
            return int(text[:8], 16)
    return 0


def _when(bits: int, asked: tuple[int, ...]) -> str:
    found = [bit for bit in asked if bits >> bit & 1]
    return "" if not found else "just now" if min(found) < 16 else "since the boot"
