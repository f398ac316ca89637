"""Strict reading of config.json: every key is used, known not to change inference, or refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edge_runtime.base.errors import ConfigError, did_you_mean
from edge_runtime.base.spec import MAX_LAYERS
from hobbit_export.arch.neutral import is_mark, is_neutral


class ConfigReader:
    """Hands out the keys of config.json and remembers which were asked for."""

    def __init__(self, data: dict[str, Any], where: str = "config.json") -> None:
        self.data = data
        self.where = where
        self._used: set[str] = set()

    def refuse(self, key: str, value: object, hint: str = "") -> ConfigError:
        """Build the error for an option this project does not implement."""
        shown = repr(value)
        shown = shown if len(shown) <= 120 else shown[:117] + "..."
        return ConfigError(f"{self.where}: unsupported option {key!r} = {shown}.{' ' + hint if hint else ''}")

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value as it stands, marking the key as used."""
        self._used.add(key)
        return self.data.get(key, default)

    def num_layers(self, default: int, key: str = "num_hidden_layers") -> int:
        """Return how many layers there are: bounded, since much is made for each before anything else is checked."""
        value = self.count(key, default)
        if value > MAX_LAYERS:
            raise ConfigError(f"{self.where}: {key}: expected at most {MAX_LAYERS}, got {value}.")
        return value

    def count(self, key: str, default: int | None, *, minimum: int = 1) -> int:
        """Return a whole number of at least `minimum`; a missing key takes the default."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            got = "nothing" if value is None else repr(value)
            raise ConfigError(f"{self.where}: {key}: expected a whole number of at least {minimum}, got {got[:60]}.")
        return value

    def number(self, key: str, default: float | None) -> float:
        """Return a finite number; a missing key takes the default."""
        return number(self.get(key, default), f"{self.where}: {key}")

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false; a missing key takes the default."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.where}: {key}: expected true or false, got {str(value)[:60]}.")
        return value

    def fixed(self, key: str, *allowed: Any) -> None:
        """Accept a key only if it is absent or has one of these values."""
        if self.get(key, allowed[0]) not in allowed:
            raise self.refuse(key, self.data[key])

    def agrees(self, key: str, value: Any) -> None:
        """Accept a key the family does not read only if it is absent or says what the model does anyway."""
        if key not in self._used:
            self.fixed(key, value, None)

    def finish(self, also_ignored: frozenset[str] = frozenset()) -> None:
        """Refuse every key nobody asked for, unless `hobbit_export.arch.neutral` says that it changes nothing.

        Args:
            also_ignored: keys that change nothing in this family.

        Raises:
            ConfigError: names the key and its value.
        """
        for key, value in self.data.items():
            if key in self._used or key in also_ignored or is_mark(key) or is_neutral(key, value):
                continue
            raise self.refuse(key, value, f"It could change the output; to leave it out anyway: --ignore-key {key}")


def without(config: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return a configuration as if some of its keys were not there; ``outer.inner`` names a key of an object in it.

    Raises:
        ConfigError: there is no such key.
    """
    result = dict(config)
    for key in keys:
        _remove(result, key, key)
    return result


def _remove(config: dict[str, Any], key: str, shown: str) -> None:
    outer, _, inner = key.partition(".")
    if inner and key not in config and isinstance(config.get(outer), dict):
        config[outer] = dict(config[outer])
        _remove(config[outer], inner, shown)
    elif key in config:
        del config[key]
    else:
        hint = did_you_mean(key, list(config))
        raise ConfigError(f"--ignore-key {shown}: config.json has no such key.{hint} Leave the flag out.")


def number(value: Any, where: str, *, finite: bool = True) -> float:
    """Return value as a float, never NaN and by default never infinite, or raise ConfigError naming `where`."""
    usable = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not usable or not (abs(value) < 1e300 or (abs(value) == math.inf and not finite)):  # abs(nan) < x is False
        raise ConfigError(f"{where}: expected a number, got {str(value)[:60]}.")
    return float(value)
