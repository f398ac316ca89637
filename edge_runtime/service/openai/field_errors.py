"""What msgspec says of a wrong field, as an error that names the field and what was expected.

Only the form of msgspec's messages is read: the path at the end, and two beginnings. What was expected is told from
the types. A message of any other form is passed on as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect as types

from edge_runtime.base.errors import did_you_mean
from edge_runtime.service.openai.api_errors import ApiError, bad_field
from edge_runtime.service.openai.body import FieldError

_AT = " - at `$"
_ABOUT_FIELD = re.compile(r"Object (?P<fault>contains unknown|missing required) field `(?P<name>.*)`", re.DOTALL)
_STEP = re.compile(r"\.(?P<name>\w+)|\[(?P<index>\d+)\]")
_MAX_PARAM = 200


def to_api_error(err: msgspec.ValidationError, kind: type, data: Any) -> ApiError:
    """Return the error to answer.

    Args:
        err: raised when `data` was converted.
        kind: the request's type.
        data: the request as plain JSON.
    """
    text = str(err)
    what, path = text.rsplit(_AT, 1) if _AT in text else (text, "")
    steps = [int(m["index"]) if m["index"] else m["name"] for m in _STEP.finditer(path)]
    cause, about = err.__cause__, _ABOUT_FIELD.fullmatch(what)
    if isinstance(cause, FieldError):
        return _bad_field(steps, cause.field, cause.message, cause.code)
    if about and about["fault"] == "contains unknown":
        known = {field.encode_name for struct in _structs(*_at(kind, data, steps)) for field in struct.fields}
        suggestion = did_you_mean(about["name"][:_MAX_PARAM], known)
        return _bad_field(steps, about["name"], f"unknown or unsupported field.{suggestion}", "unknown_parameter")
    if about or what.endswith("got `null`"):
        return _bad_field(steps, about["name"] if about else "", "is required.", "missing_required_parameter")
    return _wrong_value(steps, what, [_phrase(kind) for kind in _at(kind, data, steps)[0]])


def _wrong_value(steps: list[str | int], what: str, expected: list[str]) -> ApiError:
    if len(expected) == 1 and expected[0].startswith("only "):
        return _bad_field(steps, "", f"is not supported; {expected[0]} is accepted.", "unsupported_parameter")
    return _bad_field(steps, "", f"expected {' or '.join(expected)}." if expected else f"{what}.")


def _bad_field(steps: list[str | int], field: str, message: str, code: str = "invalid_value") -> ApiError:
    param = ".".join(map(str, (*steps, *([field] if field else []))))
    return bad_field(param[:_MAX_PARAM], message, code)


@cache
def _type_of(kind: type) -> types.Type:
    return types.type_info(kind)


def _at(kind: type, data: Any, steps: list[str | int]) -> tuple[list[types.Type], Any]:
    """Return the types that a place in a request may have, and what is there; no types if there is no such place."""
    found = list(_alternatives(_type_of(kind)))
    for step in steps:
        if isinstance(step, int):
            inner = [one.item_type for one in found if isinstance(one, types.ListType)]
        else:
            structs = _structs(found, data)
            inner = [field.type for one in structs for field in one.fields if field.encode_name == step]
            tags = tuple(str(one.tag) for one in found if isinstance(one, types.StructType) and one.tag_field == step)
            inner += [types.LiteralType(tags)] if tags else []
        found = [one for outer in inner for one in _alternatives(outer)]
        data = _child(data, step)
    return found, data


def _child(data: Any, step: str | int) -> Any:
    try:
        return data[step]
    except (LookupError, TypeError):
        return None


def _alternatives(kind: types.Type) -> Iterator[types.Type]:
    """Yield the types of a union one by one; null is left out of it."""
    if not isinstance(kind, types.UnionType):
        yield kind
        return
    for one in kind.types:
        if not isinstance(one, types.NoneType):
            yield from _alternatives(one)


def _structs(found: list[types.Type], data: Any) -> list[types.StructType]:
    """Return the structs among types: the one that the data's tag chooses, or all."""
    structs = [one for one in found if isinstance(one, types.StructType)]
    chosen = [one for one in structs if one.tag_field and _child(data, one.tag_field) == one.tag]
    return chosen or structs


def _phrase(kind: types.Type) -> str:
    """Say what a type accepts. It begins with "only" if that is one single value."""
    match kind:
        case types.Metadata(extra_json_schema={"description": str(text)}):
            return text
        case types.Metadata(extra_json_schema={"enum": [value]}) | types.LiteralType(values=[value]):
            return f"only {json.dumps(value)}"
        case types.LiteralType(values=values):
            return f"one of {', '.join(map(str, values))}"
        case types.IntType(ge=low, le=high):
            return "a whole number" if low is None else f"a whole number from {low} to {high}"
        case types.FloatType(ge=low, gt=above, le=high):
            return _number(low, above, high)
        case types.StrType(min_length=least):
            return "a string that is not empty" if least else "a string"
        case types.ListType(min_length=least, max_length=most):
            return "a list" if most is None else f"a list of {least or 0} to {most} entries"
        case types.DictType(value_type=types.FloatType() as value):
            return f"an object of names, each with {_phrase(value)}"
        case types.Metadata(type=inner):
            return _phrase(inner)
    names = {types.NoneType: "only null", types.BoolType: "true or false"}
    return names.get(type(kind), "an object")


def _number(low: float | None, above: float | None, high: float | None) -> str:
    if above is not None:
        return f"a number above {above:g}, at most {high:g}"
    return f"only {low:g}" if low is not None and low == high else f"a number from {low:g} to {high:g}"
