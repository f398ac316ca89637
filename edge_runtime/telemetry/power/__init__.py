"""How much power the machine takes: meters by name, and what `auto` tries in which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from edge_runtime.base.errors import ConfigError, DeviceError
from edge_runtime.base.params import Param, parse_named
from edge_runtime.telemetry.power.base import PowerMeter

_COMMON: Mapping[str, Param] = {
    "hz": Param(10.0, "samples a second", "ours", low=0.1, high=100.0),
    "root": Param("/", "folder under which the kernel's /sys is, as in a container", "ours"),
}


class MeterKind(NamedTuple):
    """A kind of meter.

    Attributes:
        summary: what it reads, one line.
        module: where its `open_meter(root)` is; imported when it is asked for.
        is_automatic: `auto` may take it.
    """

    summary: str
    module: str
    is_automatic: bool = True


KINDS: Mapping[str, MeterKind] = {
    "ina": MeterKind("the INA3221 (INA238 on Thor) monitors of a Jetson board, through hwmon", "hwmon"),
    "rapl": MeterKind("Intel's and AMD's energy counters of processor and memory", "rapl"),
    "battery": MeterKind("the fuel gauge of a battery that discharges, or a charger that measures", "fuel_gauge"),
    "jtop": MeterKind("jetson-stats' service (AGPL-3.0, extra `jetson`); taken only if asked for", "jtop_meter", False),
}
"""In the order `auto` tries them."""
AUTO, NONE = "auto", "none"
METERS: Mapping[str, str] = {
    AUTO: f"the first of {', '.join(name for name, kind in KINDS.items() if kind.is_automatic)} that gives figures",
    NONE: "nothing is measured",
    **{name: kind.summary for name, kind in KINDS.items()},
}
"""What may be asked for, with a line about each."""
PARAMS: Mapping[str, Mapping[str, Param]] = dict.fromkeys(METERS, _COMMON)


class MeterChoice(NamedTuple):
    """A meter that was asked for: its kind, `auto` or `none`; samples a second; where /sys is."""

    kind: str
    hz: float
    root: Path


class FoundMeter(NamedTuple):
    """What was found.

    Attributes:
        meter: None: power is not measured.
        reasons: why meters that were tried are not used, by kind.
    """

    meter: PowerMeter | None
    reasons: dict[str, str]


def parse_choice(text: str, where: str = "power-meter") -> MeterChoice:
    """Read ``NAME[:hz=N,root=DIR]``.

    Raises:
        ConfigError: unknown name or parameter, or a value out of range.
    """
    name, params = parse_named(text, PARAMS, where)
    if not str(params["root"]).startswith("/"):
        raise ConfigError(f"{where} {name!r}.root: expected an absolute folder, got {params['root']!r}.")
    return MeterChoice(name, float(params["hz"]), Path(params["root"]))


def find_meter(choice: MeterChoice) -> FoundMeter:
    """Open the meter that was asked for; with `auto` the first that gives plausible figures.

    Raises:
        DeviceError: a meter asked for by name cannot be read; the message says why.
    """
    if choice.kind == NONE:
        return FoundMeter(None, {})
    if choice.kind != AUTO:
        return FoundMeter(_open(choice.kind, choice.root), {})
    reasons: dict[str, str] = {}
    for name, kind in KINDS.items():
        if kind.is_automatic:
            try:
                return FoundMeter(_open(name, choice.root), reasons)
            except DeviceError as err:
                reasons[name] = str(err)
    return FoundMeter(None, reasons)


def _open(name: str, root: Path) -> PowerMeter:
    from importlib import import_module

    opened: Callable[[Path], Any] = import_module(f"{__name__}.{KINDS[name].module}").open_meter
    meter: PowerMeter = opened(root)
    return meter
