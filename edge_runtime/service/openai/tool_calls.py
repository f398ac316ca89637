"""What stands between a model's tool call marks, in the two formats that are served, as OpenAI's function object."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_FUNCTION = re.compile(r"\s*<function=([^<>\n]{1,256})>(.*)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^<>\n]{1,256})>\n?(.*?)\n?</parameter>", re.DOTALL)


def json_call(text: str) -> dict[str, str] | None:
    """Read the Hermes format: a JSON object with name and arguments; None if it is something else."""
    try:
        call = json.loads(text)
        return {"name": str(call["name"]), "arguments": json.dumps(call.get("arguments", {}))}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def xml_call(text: str, schemas: Mapping[str, Mapping[str, Any]]) -> dict[str, str] | None:
    """Read Qwen3-Coder's format: ``<function=NAME>`` around ``<parameter=KEY>`` with its value; None if it is not.

    Args:
        text: what stands between the marks.
        schemas: JSON schemas of the tools' parameters by name. A value is text where its schema says so; anything else
            is read as JSON, and is text if it is none.
    """
    whole = _FUNCTION.fullmatch(text)
    if whole is None:
        return None
    name, body = whole[1].strip(), whole[2]
    properties = schemas.get(name, {}).get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    arguments, at = {}, 0
    while found := _PARAMETER.match(body, at):
        arguments[found[1].strip()] = _value(found[2], known.get(found[1].strip()))
        at = found.end()
    return None if body[at:].strip() else {"name": name, "arguments": json.dumps(arguments)}


def _value(text: str, schema: Any) -> Any:
    if isinstance(schema, Mapping) and schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
