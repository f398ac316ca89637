"""Kinds of values an option takes: how text becomes a value, what a profile may hold, how help shows it.

Imports nothing heavy: `hobbit VERB --help` needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from edge_runtime.base.errors import ConfigError, did_you_mean
from edge_runtime.base.sizes import parse_size

_WORDS = {"1": True, "true": True, "on": True, "yes": True, "0": False, "false": False, "off": False, "no": False}


@dataclass(frozen=True)
class Kind:
    """A kind of value. The base takes any text.

    Attributes:
        metavar: stands for the value in help.
        takes_auto: whether the word ``auto`` is no value but asks for the next source's.
        profile_type: type of the value in a profile, as `strict.convert` takes it.
    """

    metavar: str = "TEXT"
    takes_auto: ClassVar[bool] = True
    profile_type: ClassVar[Any] = str

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


@dataclass(frozen=True)
class Text(Kind):
    """Any text; ``auto`` is nothing special."""

    takes_auto: ClassVar[bool] = False


@dataclass(frozen=True)
class File(Text):
    """A path."""

    metavar: str = "FILE"

    def convert(self, value: Any, where: str) -> Path:
        """See `Kind.convert`."""
        return Path(value)


@dataclass(frozen=True)
class Size(Kind):
    """Bytes, such as 512MiB."""

    metavar: str = "SIZE"

    def convert(self, value: Any, where: str) -> int:
        """See `Kind.convert`."""
        return parse_size(value, where)

    def schema(self) -> dict[str, Any]:
        """See `Kind.schema`."""
        return {"type": "string", "pattern": r"^\s*\d{1,15}(\.\d{1,6})?\s*([kKmMgGtT]?([iI]?[bB])?)\s*$"}


@dataclass(frozen=True)
class Count(Kind):
    """A whole number of `low` to `high`."""

    metavar: str = "N"
    low: int = 1
    high: int | None = None
    profile_type: ClassVar[Any] = int

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


@dataclass(frozen=True)
class Number(Kind):
    """A number of `low` to `high`, fractions allowed."""

    metavar: str = "X"
    low: float = 0.0
    high: float = 1.0
    unit: str = ""
    profile_type: ClassVar[Any] = float

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


@dataclass(frozen=True)
class Switch(Kind):
    """On or off: a flag with a ``--no-`` form."""

    metavar: str = "on|off"
    profile_type: ClassVar[Any] = bool

    def convert(self, value: Any, where: str) -> bool:
        """See `Kind.convert`."""
        if isinstance(value, bool):
            return value
        if str(value).lower() not in _WORDS:
            raise ConfigError(f"{where}: expected on or off, got {value!r}.")
        return _WORDS[str(value).lower()]

    def schema(self) -> dict[str, Any]:
        """See `Kind.schema`."""
        return {"type": "boolean"}


@dataclass(frozen=True)
class OnlyOn(Switch):
    """A flag that can only switch on; its variable takes on or off."""


@dataclass(frozen=True)
class Choice(Kind):
    """One of a few words."""

    names: tuple[str, ...] = ()

    def convert(self, value: Any, where: str) -> str:
        """See `Kind.convert`."""
        if value not in self.names:
            hint = did_you_mean(str(value), self.names)
            raise ConfigError(f"{where}: expected one of {', '.join(self.names)}, got {value!r}.{hint}")
        return str(value)

    def schema(self) -> dict[str, Any]:
        """See `Kind.schema`."""
        return {"enum": list(self.names)}


@dataclass(frozen=True)
class Named(Kind):
    """A name of a registry with parameters, ``NAME[:K=V,...]``, kept as text.

    Attributes:
        names: what the registry holds, for help and schema.
        check: refuses a text that the registry does not accept.
    """

    metavar: str = "NAME[:K=V,...]"
    names: tuple[str, ...] = ()
    check: Callable[[str, str], object] = lambda text, where: None

    def convert(self, value: Any, where: str) -> str:
        """See `Kind.convert`."""
        self.check(str(value), where)
        return str(value)

    def schema(self) -> dict[str, Any]:
        """See `Kind.schema`."""
        return {"type": "string", "pattern": f"^({'|'.join(self.names)})(:.*)?$"}


@dataclass(frozen=True)
class Tier(Kind):
    """A precision of experts in bits; ``bf16`` is 16."""

    metavar: str = "8|6|4|2|bf16"
    profile_type: ClassVar[Any] = Literal[2, 4, 6, 8, "auto"]

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
