"""What a device profile holds: values with where they come from, how the board is recognised, its power modes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from edge_runtime.base.sizes import parse_size
from edge_runtime.base.strict import convert, from_mapping

FORMAT = 2
"""Version of the format. Profiles without the key `format` are of the first one, which asks for less provenance."""
Basis = Literal["default", "assumed", "measured"]
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2})?Z?)?")


@dataclass(frozen=True)
class Setting:
    """A value and how anybody knows it.

    Attributes:
        value: of an option or of a fact about the board.
        basis: 'default': what the program takes by itself; 'assumed': from a data sheet or a report; 'measured': here.
        note: for people.
        source: the data sheet or report of an assumption.
        when: day of a measurement, UTC, such as 2026-11-29.
        how: command or program that measured.
    """

    value: Any
    basis: Basis
    note: str = ""
    source: str = ""
    when: str = ""
    how: str = ""

    @property
    def origin(self) -> str:
        """The basis in a few words, for tables."""
        detail = {"assumed": self.source, "measured": " by ".join(filter(None, (self.when, self.how)))}
        return f"{self.basis}: {found}" if (found := detail.get(self.basis)) else self.basis


@dataclass(frozen=True)
class FactKind:
    """A fact about the board that a profile may state beside options.

    Attributes:
        about: one line.
        type: as `strict.convert` takes it; None is allowed: nobody knows.
        schema: JSON Schema of the value.
        is_required: every profile has it.
    """

    about: str
    type: Any
    schema: dict[str, Any]
    is_required: bool = False


def _or_null(**schema: Any) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_RATE = _or_null(type="number", exclusiveMinimum=0)
FACTS: dict[str, FactKind] = {
    "system_memory": FactKind(
        "memory that the board's system sees (MemTotal)", str | None,
        _or_null(type="string", pattern=r"^\s*\d{1,15}(\.\d{1,6})?\s*([kKmMgGtT]?([iI]?[bB])?)\s*$"),
    ),
    "cpus": FactKind("cores that compute", int | None, _or_null(type="integer", minimum=1, maximum=1024)),
    "drive_read_gb_s": FactKind("read rate of the drive in GB/s, for estimates", float | None, _RATE, True),
    "memory_read_gb_s": FactKind("read rate of memory in GB/s, for estimates", float | None, _RATE, True),
    "power_mode": FactKind("power mode to run in, as power_modes names it", str | None, _or_null(type="string")),
}  # fmt: skip
"""By key. A new one is a line here; the schema and the loader follow."""


@dataclass(frozen=True)
class PowerMode:
    """A power mode of the board.

    Attributes:
        name: as `nvpmodel -q` says it, or the name of a cpufreq governor.
        watts: nominal budget, None if it has none.
        id: number that `nvpmodel -m` takes.
        kind: what switches it.
    """

    name: str
    watts: float | None = None
    id: int | None = None
    kind: Literal["nvpmodel", "governor"] = "nvpmodel"


@dataclass(frozen=True)
class BoardMatch:
    """How `--profile auto` recognises the board; see `edge_runtime.config.boards`.

    Attributes:
        compatible: entries of the device tree's `compatible`, without the suffix ``-super``.
        models: words of the device tree's `model`, asked where `compatible` names no profile's board.
        is_super: whether the device tree is one of NVIDIA's "Super" ones; None: either.
        memory_gib: lowest and highest MemTotal in GiB.
        machines: names of `uname -m`, for boards without a device tree.
    """

    compatible: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    is_super: bool | None = None
    memory_gib: list[float] = field(default_factory=list)
    machines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TunedFor:
    """What a profile that a program wrote was measured on.

    Attributes:
        fingerprint: of the machine.
        based_on: name of the profile it started from.
        version: of the program.
    """

    fingerprint: str
    based_on: str = ""
    version: str = ""


@dataclass(frozen=True)
class Board:
    """The part of a profile that is neither option nor fact with a value.

    Attributes:
        name: name of the profile.
        board: what it is for.
        ran_on_hardware: whether anybody ran this runtime on that board with this profile.
        format: version of the profile's format.
        match: how the board is recognised; None: never by itself.
        power_modes: for sweeps.
        tuned_for: where a program measured it; None for profiles written by people.
    """

    name: str
    board: str
    ran_on_hardware: bool
    format: Literal[1, 2] = 1
    match: BoardMatch | None = None
    power_modes: list[PowerMode] = field(default_factory=list)
    tuned_for: TunedFor | None = None


def read_setting(data: Any, where: str, form: int) -> Setting:
    """Read a value with its provenance.

    Args:
        data: from YAML.
        where: names the key, for messages.
        form: version of the profile's format.

    Raises:
        ValueError: *where: what, expected, got*.
    """
    if isinstance(data, Mapping) and isinstance(data.get("when"), date):  # YAML makes a date of 2026-11-29
        data = {**data, "when": data["when"].isoformat()}
    setting = from_mapping(Setting, data, where)
    needed = {"assumed": ("source",), "measured": ("when", "how"), "default": ()}[setting.basis]
    for key in needed if form >= FORMAT else ():
        if not getattr(setting, key).strip():
            raise ValueError(f"{where}.{key}: expected a text, as the basis is {setting.basis!r}, got none.")
    if setting.when and not _DAY.fullmatch(setting.when):
        raise ValueError(f"{where}.when: expected a day such as 2026-11-29, got {setting.when[:60]!r}.")
    return setting


def read_fact(name: str, data: Any, where: str, form: int) -> Setting:
    """Read a fact of `FACTS`.

    Raises:
        ValueError: it is wrong; names the key.
    """
    fact = read_setting(data, where, form)
    value = convert(FACTS[name].type, fact.value, f"{where}.value")
    if isinstance(value, (int, float)) and value <= 0:
        raise ValueError(f"{where}: expected a number above 0, got {value}.")
    if name == "system_memory" and value is not None:
        parse_size(value, where)
    return fact
