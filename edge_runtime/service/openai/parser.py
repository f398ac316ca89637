"""Reads a request strictly from the bytes of its body: JSON first, then the types of the request."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from edge_runtime.service.openai.api_errors import ApiError
from edge_runtime.service.openai.generation import GenerationRequest

_MAX_DEPTH = 64
_MAX_EXACT_FLOAT = 1 << 53
_MAX_VALUES = 1 << 18
"""An empty list takes three bytes of a body and 64 of memory."""
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
R = TypeVar("R", bound=GenerationRequest)


def _number(text: str) -> int | float:
    """JSON does not tell 5.0 from 5: a whole number is an integer."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < _MAX_EXACT_FLOAT else value


_DECODER = msgspec.json.Decoder(float_hook=_number)


def parse_request(body: bytes | bytearray, kind: type[R]) -> R:
    """Return the request in a body.

    Raises:
        ApiError: it is no JSON object, or a field is missing, wrong, unknown or not supported; names the field.
    """
    data = _parse_json(body)
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as err:
        # it inspects types, which no valid request needs
        from edge_runtime.service.openai.field_errors import to_api_error

        raise to_api_error(err, kind, data) from err


def _parse_json(body: bytes | bytearray) -> dict[str, Any]:
    if _num_marks(body) > _MAX_VALUES and _num_marks(_STRING.sub(b"", body)) > _MAX_VALUES:
        raise ApiError(400, f"body: expected at most {_MAX_VALUES} values.", code="invalid_json")
    try:
        data = _DECODER.decode(body)
        too_deep = _depth(data) > _MAX_DEPTH
    except (msgspec.MsgspecError, ValueError, RecursionError) as err:
        raise ApiError(400, f"body: expected JSON in UTF-8: {err}"[:300], code="invalid_json") from err
    if too_deep:
        raise ApiError(400, f"body: nested deeper than {_MAX_DEPTH} levels.", code="invalid_json")
    if not isinstance(data, dict):
        raise ApiError(400, "body: expected a JSON object.", code="invalid_json")
    return data


def _num_marks(text: bytes | bytearray) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


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
