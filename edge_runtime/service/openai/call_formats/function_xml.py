"""Reads ``<function=NAME>`` around ``<parameter=KEY>`` with its value, as Qwen3-Coder writes it."""

from __future__ import annotations

import json
import re

from edge_runtime.service.openai.call_formats.base import Function, Schemas, properties_of, value_of

_FUNCTION = re.compile(r"\s*<function=([^<>\n]{1,256})>(.*)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^<>\n]{1,256})>\n?(.*?)\n?</parameter>", re.DOTALL)


def xml_call(text: str, schemas: Schemas) -> Function | None:
    """Read a function; None if it is something else.

    Args:
        text: what stands between the marks.
        schemas: a value is text where its schema says so; anything else is read as JSON, and is text if it is none.
    """
    whole = _FUNCTION.fullmatch(text)
    if whole is None:
        return None
    name, body = whole[1].strip(), whole[2]
    known = properties_of(schemas, name)
    arguments, at = {}, 0
    while found := _PARAMETER.match(body, at):
        arguments[found[1].strip()] = value_of(found[2], known.get(found[1].strip()))
        at = found.end()
    return None if body[at:].strip() else Function(name, json.dumps(arguments))
