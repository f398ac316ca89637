"""Fuel gauges and chargers that measure, through the kernel's power_supply class.

A battery's gauge shows the machine's power only while it discharges; while it charges, it shows the charge. A USB-C
port of `ucsi` or `tcpm` shows the current it negotiated, not one it measured, so it is no meter.
"""

from __future__ import annotations

from pathlib import Path

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

_FOLDER = "sys/class/power_supply"
_NEGOTIATED = ("ucsi-source-psy", "tcpm-source-psy")
_MICRO, _MICRO_SQUARED = 1e-6, 1e-12


class FuelGaugeMeter:
    """Implements `PowerMeter`: of the supplies that are in use at a time."""

    def __init__(self, supplies: dict[str, Path]) -> None:
        self._supplies = supplies
        rails = tuple(supplies)
        total = rails if len(rails) == 1 else ()
        covers = "the whole machine, as far as this supply feeds it" if total else "several supplies; no known sum"
        self.info = MeterInfo("battery", "fuel gauges and chargers through power_supply", rails, total, covers)

    def read(self) -> Values:
        """See `PowerMeter.read`."""
        return {name: supply_watts(folder) for name, folder in self._supplies.items()}

    def close(self) -> None:
        """See `PowerMeter.close`."""


def supply_watts(folder: Path) -> float | None:
    """Return the watts a supply gives the machine now; None while it gives none that can be known."""
    if not _feeds(folder):
        return None
    power = read_int(folder / "power_now")
    if power is not None:
        return plausible_watts(abs(power) * _MICRO)
    voltage, current = read_int(folder / "voltage_now"), read_int(folder / "current_now")
    # drivers differ in the sign of a current that flows out
    return None if voltage is None or current is None else plausible_watts(voltage * abs(current) * _MICRO_SQUARED)


def _feeds(folder: Path) -> bool:
    if read_text(folder / "type") == "Battery":
        return read_text(folder / "status") == "Discharging"
    return read_int(folder / "online") == 1


def open_meter(root: Path) -> PowerMeter:
    """Open what measures.

    Raises:
        DeviceError: nothing does, or not now.
    """
    supplies: dict[str, Path] = {}
    negotiated = []
    for folder in sorted((root / _FOLDER).glob("*")):
        if folder.name.startswith(_NEGOTIATED):
            negotiated.append(folder.name)
        elif read_text(folder / "scope") != "Device" and supply_watts(folder) is not None:
            supplies[folder.name] = folder
    if not supplies:
        more = f" {', '.join(negotiated)} only says what was negotiated." if negotiated else ""
        raise DeviceError(f"battery: nothing under /{_FOLDER} measures what the machine takes now.{more}")
    return require_sense(FuelGaugeMeter(supplies))
