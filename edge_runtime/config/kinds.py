"""Kinds of values an option takes: how text becomes a value, what a profile may hold, how help shows it.

Imports nothing heavy: `hobbit VERB --help` needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from edge_runtime.base.errors import ConfigError, did_you_mean
from edge_runtime.base.sizes import parse_size

SWITCH_WORDS = {"1": True, "true": True, "on": True, "yes": True, "0": False, "false": False, "off": False, "no": False}


class Kind:
    """A kind of value. The base takes any text.

    Attributes:
        metavar: stands for the value in help.
        takes_auto: whether the word ``auto`` is no value but asks for the next source's.
        profile_type: type of the value in a profile, as `strict.convert` takes it.
        repeats: whether the flag may be given several times; the values are then a list.

    Plain classes, not dataclasses: every start pays for making them.
    """

    metavar = "TEXT"
    takes_auto = True
    profile_type: Any = str
    repeats = False

    def __init__(self, metavar: str | None = None) -> None:
        if metavar is not None:
            self.metavar = metavar

    def convert(self, value: Any, where: str) -> Any:
        """Return the value of a text, or of a value that has its type already.

        Raises:
            ConfigError: it is none; begins with `where`.
        """
        return str(value)

    @property
    def limits(self) -> str:
        """What is allowed, for the documentation; empty where the metavar says it."""
        return ""

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the value in a profile, without ``auto``."""
        return {"type": "string"}


class Text(Kind):
    """Any text; ``auto`` is nothing special."""

    takes_auto = False


class File(Text):
    """A path."""

    metavar = "FILE"

    def convert(self, value: Any, where: str) -> Path:
        """See `Kind.convert`."""
        return Path(value)


class Size(Kind):
    """Bytes, such as 512MiB."""

    metavar = "SIZE"

    def convert(self, value: Any, where: str) -> int:
        """See `Kind.convert`."""
        return parse_size(value, where)

    def schema(self) -> dict[str, Any]:
        """See `Kind.schema`."""
        return {"type": "string", "pattern": r"^\s*\d{1,15}(\.\d{1,6})?\s*([kKmMgGtT]?([iI]?[bB])?)\s*$"}


class Count(Kind):
    """A whole number of `low` to `high`."""

    metavar = "N"
    profile_type = int

    def __init__(self, metavar: str | None = None, *, low: int = 1, high: int | None = None) -> None:
        super().__init__(metavar)
        self.low, self.high = low, high

    def convert(self, value: Any, where: str) -> int:
        """See `Kind.convert`."""
        try:
            number = int(str(value))
        except ValueError as err:
            raise ConfigError(f"{where}: expected a whole number, got {value!r}.") from err
        if number < self.low or (self.high is not None and number > self.high):
            raise ConfigError(f"{where}: expected {self.limits}, got {number}. Give a number in this range.")
        return number

    @property
    def limits(self) -> str:
        """See `Kind.limits`."""
        return f"{self.low} or more" if self.high is None else f"{self.low} to {_number_text(self.high)}"

    def schema(self) -> dict[str, Any]:
        """See `Kind.schema`."""
        return {"type": "integer", "minimum": self.low} | ({} if self.high is None else {"maximum": self.high})


class Number(Kind):
    """A number of `low` to `high`, fractions allowed."""

    metavar = "X"
    profile_type = float

    def __init__(self, metavar: str | None = None, *, low: float = 0.0, high: float = 1.0, unit: str = "") -> None:
        super().__init__(metavar)
        self.low, self.high, self.unit = low, high, unit

    def convert(self, value: Any, where: str) -> float:
        """See `Kind.convert`."""
        try:
            number = float(value)
        except (TypeError, ValueError) as err:
            raise ConfigError(f"{where}: expected a number, got {value!r}.") from err
        if not self.low <= number <= self.high:
            raise ConfigError(f"{where}: expected {self.limits}, got {value}.")
        return number

    @property
    def limits(self) -> str:
        """See `Kind.limits`."""
        return f"{self.low:g} to {_number_text(self.high)} {self.unit}".rstrip()

    def schema(self) -> dict[str, Any]:
        """See `Kind.schema`."""
        return {"type": "number", "minimum": self.low, "maximum": self.high}


class Switch(Kind):
    """On or off: a flag with a ``--no-`` form."""

    metavar = "on|off"
    profile_type = bool

    def convert(self, value: Any, where: str) -> bool:
        """See `Kind.convert`."""
        if isinstance(value, bool):
            return value
        if str(value).lower() not in SWITCH_WORDS:
            raise ConfigError(f"{where}: expected on or off, got {value!r}.")
        return SWITCH_WORDS[str(value).lower()]

    def schema(self) -> dict[str, Any]:
        """See `Kind.schema`."""
        return {"type": "boolean"}


class OnlyOn(Switch):
    """A flag that can only switch on; its variable takes on or off."""


class Choice(Kind):
    """One of a few words."""

    def __init__(self, *names: str) -> None:
        super().__init__("|".join(names))
        self.names = names

    def convert(self, value: Any, where: str) -> str:
        """See `Kind.convert`."""
        if value not in self.names:
            hint = did_you_mean(str(value), self.names)
            raise ConfigError(f"{where}: expected one of {', '.join(self.names)}, got {value!r}.{hint}")
        return str(value)

    def schema(self) -> dict[str, Any]:
        """See `Kind.schema`."""
        return {"enum": list(self.names)}


class Word(Choice):
    """One of a few words, of which ``auto`` may be one like the others."""

    takes_auto = False


class Named(Kind):
    """A name of a registry with parameters, ``NAME[:K=V,...]``, kept as text.

    Args:
        names: what the registry holds, for help and schema.
        check: refuses a text that the registry does not accept.
    """

    metavar = "NAME[:K=V,...]"

    def __init__(self, names: tuple[str, ...], check: Callable[[str, str], object]) -> None:
        super().__init__()
        self.names, self.check = names, check

    def convert(self, value: Any, where: str) -> str:
        """See `Kind.convert`."""
        self.check(str(value), where)
        return str(value)

    def schema(self) -> dict[str, Any]:
        """See `Kind.schema`."""
        return {"type": "string", "pattern": f"^({'|'.join(self.names)})(:.*)?$"}


class Tier(Kind):
    """A precision of experts in bits; ``bf16`` is 16."""

    metavar = "8|6|4|2|bf16"
    profile_type = Literal[2, 4, 6, 8, "auto"]

    def convert(self, value: Any, where: str) -> int:
        """See `Kind.convert`. Whether a bundle has it is asked later."""
        text = "16" if str(value) == "bf16" else str(value)
        if not text.isdecimal():
            raise ConfigError(f"{where}: expected one of 2, 4, 6, 8 or bf16, got {value!r}.")
        return int(text)

    def schema(self) -> dict[str, Any]:
        """See `Kind.schema`."""
        return {"enum": [2, 4, 6, 8]}


def _number_text(number: float) -> str:
    """A bound as people write it: powers of two beyond a million by their exponent."""
    exponent = int(number + 1).bit_length() - 1
    if number > 1e6 and number in (1 << exponent, (1 << exponent) - 1):
        return f"2^{exponent}" if number == 1 << exponent else f"2^{exponent} - 1"
    return f"{int(number)}" if number == int(number) else f"{number:g}"
