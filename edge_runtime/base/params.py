"""Parameters of policies: type, default, range and source of each, converted from text and checked in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_runtime.base.arrays import F64
from edge_runtime.base.errors import ConfigError, did_you_mean

Value = float | int | str | bool


@dataclass(frozen=True)
class Param:
    """One parameter; its type is that of the default.

    Attributes:
        default: used when it is not given.
        doc: what it does, one line.
        source: paper and section, or 'ours'.
        low: least value.
        high: greatest value.
    """

    default: Value
    doc: str
    source: str
    low: float | None = None
    high: float | None = None

    def convert(self, text: str, where: str) -> Value:
        """Return the value of a text.

        Raises:
            ConfigError: wrong type, or outside the range.
        """
        kind = type(self.default)
        if kind is bool:
            if text not in ("true", "false"):
                raise ConfigError(f"{where}: expected true or false, got {text!r}.")
            return text == "true"
        try:
            value: Value = kind(text)
        except ValueError as err:
            raise ConfigError(f"{where}: expected {kind.__name__}, got {text!r}.") from err
        if kind is not str:
            self._check_range(float(value), where, text)
        return value

    def _check_range(self, value: float, where: str, text: str) -> None:
        low, high = self.low, self.high
        inside = (low is None or value >= low) and (high is None or value <= high)
        if not inside or value != value:
            limits = f"{'any' if low is None else f'{low:g}'} to {'any' if high is None else f'{high:g}'}"
            raise ConfigError(f"{where}: expected {limits}, got {text}.")


def parse_params(items: str, known: Mapping[str, Param], where: str) -> dict[str, Any]:
    """Convert 'param=value,...' and fill in the defaults.

    Raises:
        ConfigError: a parameter is unknown, given twice, of the wrong type or outside its range.
    """
    given: dict[str, Any] = {}
    for item in items.split(",") if items.strip() else []:
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise ConfigError(f"{where}: expected param=value, got {item!r}.")
        if key not in known:
            takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
            raise ConfigError(f"{where}: unknown parameter {key!r}; {takes}.{did_you_mean(key, known)}")
        if key in given:
            raise ConfigError(f"{where}: parameter {key!r} is given twice.")
        given[key] = known[key].convert(value, f"{where}.{key}")
    return {name: given.get(name, param.default) for name, param in known.items()}


def parse_named(text: str, known: Mapping[str, Mapping[str, Param]], where: str) -> tuple[str, dict[str, Any]]:
    """Split ``name:param=value,...``, convert the values and fill in the defaults.

    Args:
        text: what was asked for.
        known: parameters of each name.
        where: who asked, for messages.

    Raises:
        ConfigError: the name or a parameter is unknown, given twice, of the wrong type or outside its range.
    """
    name, _, rest = text.partition(":")
    name = name.strip()
    if name not in known:
        raise ConfigError(f"{where}: expected one of {', '.join(known)}, got {name!r}.{did_you_mean(name, known)}")
    return name, parse_params(rest, known[name], f"{where} {name!r}")


def per_layer(text: str, num_layers: int, where: str, *, low: float, high: float) -> F64:
    """Return float64 [L] of a text with one number, or one for each layer: ``0.4/0.5/0.5``.

    Raises:
        ConfigError: not numbers, outside the range, or neither 1 nor L of them.
    """
    try:
        values = np.array([float(part) for part in text.split("/")])
    except ValueError as err:
        raise ConfigError(f"{where}: expected numbers as in 0.4/0.5, got {text!r}.") from err
    if len(values) not in (1, num_layers):
        raise ConfigError(f"{where}: expected 1 or {num_layers} values (one a layer), got {len(values)}.")
    if not ((values >= low) & (values <= high)).all():
        raise ConfigError(f"{where}: expected {low:g} to {high:g}, got {text}.")
    return np.array(np.broadcast_to(values, (num_layers,)), np.float64)
