"""Strict reading of JSON objects: every field is asked for by name and type, and what nobody asked for is an error."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from edge_runtime.base.errors import did_you_mean
from edge_runtime.service.openai.api_errors import ApiError, bad_field

_MAX_DEPTH = 64


def parse_json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a request's body.

    Raises:
        ApiError: it is not UTF-8, not JSON, not an object, or nested too deeply.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
        too_deep = _depth(value) > _MAX_DEPTH
    except (ValueError, RecursionError) as err:
        raise ApiError(400, f"body: expected JSON in UTF-8: {err}"[:300], code="invalid_json") from err
    if too_deep:
        raise ApiError(400, f"body: nested deeper than {_MAX_DEPTH} levels.", code="invalid_json")
    if not isinstance(value, dict):
        raise ApiError(400, "body: expected a JSON object.", code="invalid_json")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


class Fields:
    """The fields of one object. `null` counts as not given. Call `finish` when all were taken.

    Args:
        data: the object.
        where: dotted path of the object, empty for the body.
    """

    def __init__(self, data: dict[str, Any], where: str = "") -> None:
        self._data, self._where = data, where
        self._known: set[str] = set()

    def path(self, name: str) -> str:
        """Dotted path of a field."""
        return f"{self._where}.{name}" if self._where else name

    def get(self, name: str) -> Any:
        """Return a field as it is, None if it was not given."""
        self._known.add(name)
        return self._data.get(name)

    def required(self, name: str) -> Any:
        """Return a field that must be there."""
        value = self.get(name)
        if value is None:
            raise bad_field(self.path(name), "is required.", "missing_required_parameter")
        return value

    def text(self, name: str, default: str | None = None) -> str | None:
        """Return a string."""
        value = self.get(name)
        return default if value is None else self._typed(name, value, str, "a string")

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a boolean."""
        value = self.get(name)
        return default if value is None else self._typed(name, value, bool, "true or false")

    def integer(self, name: str, low: int, high: int) -> int | None:
        """Return a whole number within bounds."""
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise bad_field(self.path(name), f"expected a whole number from {low} to {high}.")
        return value

    def number(self, name: str, low: float, high: float, default: float) -> float:
        """Return a number within bounds."""
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise bad_field(self.path(name), f"expected a number from {low:g} to {high:g}.")
        return float(value) if math.isfinite(value) else default

    def choice(self, name: str, known: Iterable[str], default: str) -> str:
        """Return one of some strings."""
        value, known = self.text(name, default), tuple(known)
        if value not in known:
            raise bad_field(self.path(name), f"expected one of {', '.join(known)}.")
        return str(value)

    def object(self, name: str) -> Fields | None:
        """Return an object's fields."""
        value = self.get(name)
        return None if value is None else Fields(self._typed(name, value, dict, "an object"), self.path(name))

    def mapping(self, name: str) -> dict[str, Any] | None:
        """Return an object as it is."""
        value = self.get(name)
        return None if value is None else self._typed(name, value, dict, "an object")

    def items(self, name: str, most: int) -> list[Any]:
        """Return a list, empty if it was not given."""
        value = self.get(name)
        if value is None:
            return []
        found: list[Any] = self._typed(name, value, list, "a list")
        if len(found) > most:
            raise bad_field(self.path(name), f"expected at most {most} entries, got {len(found)}.")
        return found

    def objects(self, name: str, most: int) -> list[Fields]:
        """Return a list of objects."""
        out = []
        for i, item in enumerate(self.items(name, most)):
            where = f"{self.path(name)}.{i}"
            if not isinstance(item, dict):
                raise bad_field(where, "expected an object.")
            out.append(Fields(item, where))
        return out

    def neutral(self, name: str, *values: Any) -> None:
        """Accept a field this server does not implement only where it changes nothing."""
        value = self.get(name)
        if value is not None and (isinstance(value, bool) or value not in values):
            shown = " or ".join(json.dumps(v) for v in values)
            raise bad_field(self.path(name), f"is not supported; only {shown} is accepted.", "unsupported_parameter")

    def finish(self) -> None:
        """Refuse what was not asked for.

        Raises:
            ApiError: names the first unknown field.
        """
        for name in self._data:
            if name not in self._known:
                raise bad_field(
                    self.path(name)[:200],
                    f"unknown or unsupported field.{did_you_mean(name, self._known)}",
                    "unknown_parameter",
                )

    def _typed(self, name: str, value: Any, kind: type, what: str) -> Any:
        if not isinstance(value, kind):
            raise bad_field(self.path(name), f"expected {what}.")
        return value
