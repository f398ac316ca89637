"""Plain data (JSON, YAML) into dataclasses, strictly: unknown, missing or mistyped keys are errors."""

from __future__ import annotations

import math
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

from edge_runtime.base.errors import did_you_mean

Record = TypeVar("Record")


def from_mapping(cls: type[Record], data: Any, where: str) -> Record:
    """Build dataclass `cls` from untrusted plain data.

    Args:
        cls: a dataclass whose fields are bool, int, float, str, None, Literal, list, dict or other dataclasses. The
            dataclasses of a union are told apart by a literal field `kind`.
        data: parsed JSON or YAML.
        where: path named in errors, such as ``manifest.json: model``.

    Raises:
        ValueError: *where.key: what, expected, got*.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: expected an object, got {_short(data)}")  # noqa: TRY004 - one error kind
    hints = _hints(cls)  # type: ignore[arg-type]
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in known:
            hint = did_you_mean(key, known) if isinstance(key, str) else ""
            raise ValueError(f"{where}: unknown key {_short(key)}.{hint}")
    values: dict[str, Any] = {}
    for name, f in known.items():
        if name in data:
            values[name] = convert(hints[name], data[name], f"{where}.{name}")
        elif f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"{where}: key {name!r} is missing")
    return cls(**values)


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    """Types of a dataclass's fields; working them out takes longer than all the rest of reading a manifest."""
    return typing.get_type_hints(cls)


def convert(kind: Any, value: Any, where: str) -> Any:
    """Return value as `kind`, or raise ValueError naming `where`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, where)
    if origin is typing.Literal:
        if value not in args or isinstance(value, bool) != any(isinstance(a, bool) for a in args):
            hint = did_you_mean(value, [str(a) for a in args]) if isinstance(value, str) else ""
            raise ValueError(f"{where}: expected one of {', '.join(map(str, args))}, got {_short(value)}.{hint}")
        return value
    if origin is list:
        if not isinstance(value, list):
            raise ValueError(f"{where}: expected a list, got {_short(value)}")
        return [convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
            raise ValueError(f"{where}: expected an object, got {_short(value)}")
        return {k: convert(args[1], item, f"{where}.{k}") for k, item in value.items()}
    if is_dataclass(kind) and isinstance(kind, type):
        return from_mapping(kind, value, where)
    return _convert_scalar(kind, value, where)


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    records = [option for option in options if is_dataclass(option)]
    if len(records) > 1:
        kinds = {kind: option for option in records for kind in _kinds(option)}
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected an object, got {_short(value)}")
        stated = value.get("kind")
        if not isinstance(stated, str) or stated not in kinds:
            raise ValueError(f"{where}.kind: expected one of {', '.join(kinds)}, got {_short(stated)}")
        return convert(kinds[stated], value, where)
    problems = []
    # bool before int before float, so that a value keeps its own type where several would take it
    rank = {bool: 0, int: 1, float: 2}
    for option in sorted((o for o in options if o is not type(None)), key=lambda o: rank.get(o, 3)):
        try:
            return convert(option, value, where)
        except ValueError as err:
            problems.append(err)
    raise problems[-1]


def _kinds(option: Any) -> tuple[str, ...]:
    """What the literal field `kind` of a dataclass may be: it tells the dataclasses of a union apart."""
    return typing.get_args(_hints(option)["kind"])


def _convert_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if (isinstance(value, int) and abs(value) > 1 << 53) or not math.isfinite(value):
            raise ValueError(f"{where}: expected a finite number, got {_short(value)}")
        return float(value)
    if kind in (int, str, bool) and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    name = getattr(kind, "__name__", str(kind))
    raise ValueError(f"{where}: expected {name}, got {_short(value)}")


class _Short(reprlib.Repr):
    """`repr` in some 60 characters, without building the whole of it first."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxlong = self.maxother = 57
        self.maxlist = self.maxdict = self.maxtuple = 4
        self.maxlevel = 3


def _short(value: Any) -> str:
    text = _Short().repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
