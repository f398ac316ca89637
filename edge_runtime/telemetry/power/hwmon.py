"""Power monitors of a Jetson board through the kernel's hwmon: INA3221 on Orin, with an INA238 on Thor.

An INA3221 has three channels, each with a label, a bus voltage `inN_input` in mV and a current `currN_input` in mA;
`in4` to `in7` are shunt voltages. An INA238 has `power1_input` in uW. Which rails add up to the board's power is in
NVIDIA's developer guide, "Electrical management": Orin Nano and NX have one input rail; AGX Orin has none, and its
rail VDDQ_VDD2_1V8AO is fed by VIN_SYS_5V0, so it must not be added again.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from edge_runtime.base.errors import DeviceError
from edge_runtime.telemetry.power.base import (
    MeterInfo,
    PowerMeter,
    Values,
    plausible_watts,
    read_int,
    read_text,
    require_sense,
)
from edge_runtime.telemetry.power.sensor_file import SensorFile

_CHIPS = ("ina3221", "ina238")
_CHANNELS = (1, 2, 3)
_UNUSED = "NC"
TOTALS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("VIN",), "the whole board at its input"),
    (("VDD_IN",), "the module at its input; the carrier board and what hangs on it are not included"),
    (("POM_5V_IN",), "the module at its input; the carrier board and what hangs on it are not included"),
    (
        ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
        "the module as the sum of its three supplies; the carrier board is not included",
    ),
)
"""Rails that make up a board's power, and what that includes; the first whose rails are all there."""


class _Channel(NamedTuple):
    """Files of a rail: a voltage in mV and a current in mA, or a power in uW alone."""

    files: tuple[SensorFile, ...]

    def watts(self) -> float | None:
        values = [file.read() for file in self.files]
        if any(value is None for value in values):
            return None
        microwatts = 1.0
        for value in values:
            microwatts *= value or 0
        return plausible_watts(microwatts / 1e6)


class HwmonMeter:
    """Implements `PowerMeter`."""

    def __init__(self, channels: dict[str, _Channel], chips: str) -> None:
        self._channels = channels
        rails = tuple(channels)
        total, covers = total_of(rails)
        self.info = MeterInfo("ina", f"{chips} power monitors through hwmon", rails, total, covers)

    def read(self) -> Values:
        """See `PowerMeter.read`."""
        return {rail: channel.watts() for rail, channel in self._channels.items()}

    def close(self) -> None:
        """See `PowerMeter.close`."""
        for channel in self._channels.values():
            for file in channel.files:
                file.close()


def total_of(rails: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Return which of these rails make up a board's power, and what that includes; () if no such sum is known."""
    for total, covers in TOTALS:
        if set(total) <= set(rails):
            return total, covers
    return (), "no rail, or sum of rails, that is known to be the board's whole power"


def open_meter(root: Path) -> PowerMeter:
    """Open every power monitor of the board.

    Raises:
        DeviceError: there is none, it cannot be read, or says nonsense.
    """
    channels: dict[str, _Channel] = {}
    chips: list[str] = []
    problems: list[str] = []
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*"), key=_number):
        chip = read_text(folder / "name")
        if chip not in _CHIPS:
            continue
        chips += [chip] if chip not in chips else []
        try:
            for label, channel in _channels_of(folder, chip):
                channels[label if label not in channels else f"{label}@{folder.name}"] = channel
        except OSError as err:
            problems.append(f"{folder.name}: {err.strerror}")
    if not channels:
        raise DeviceError(_nothing(chips, problems))
    return require_sense(HwmonMeter(channels, " and ".join(name.upper() for name in chips)))


def _nothing(chips: list[str], problems: list[str]) -> str:
    if not chips:
        return "ina: no INA3221 or INA238 power monitor under /sys/class/hwmon."
    return f"ina: no channel of the board's {' and '.join(chips)} can be read ({'; '.join(problems) or 'none is on'})."


def _channels_of(folder: Path, chip: str) -> list[tuple[str, _Channel]]:
    if chip == "ina238":
        name = read_text(folder / "power1_label") or read_text(folder / "label") or "VIN"
        return [(name, _Channel((SensorFile(folder / "power1_input"),)))]
    found = []
    for number in _CHANNELS:
        label = read_text(folder / f"in{number}_label")
        if not label or label == _UNUSED or read_int(folder / f"in{number}_enable") == 0:
            continue
        files = SensorFile(folder / f"in{number}_input"), SensorFile(folder / f"curr{number}_input")
        found.append((label, _Channel(files)))
    return found


def _number(folder: Path) -> int:
    digits = re.search(r"\d+$", folder.name)
    return int(digits[0]) if digits else 0
