"""Qwen3-Coder's XML, of Nemotron 3 too: ``<function=NAME>`` around ``<parameter=KEY>`` with its value."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from edge_runtime.service.openai.call_formats.base import (
    Delimiters,
    Function,
    Offered,
    Schemas,
    Term,
    function_rules,
    properties_of,
    value_of,
)
from edge_runtime.service.openai.call_formats.hermes import CLOSES, OPENS, Hermes

_FUNCTION = re.compile(r"\s*<function=([^<>\n]{1,256})>(.*)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^<>\n]{1,256})>\n?(.*?)\n?</parameter>", re.DOTALL)

_DELIMITERS = Delimiters("<parameter=", ">\n", "\n</parameter>\n")


class QwenXml(Hermes):
    """The format. What it reads is what `Hermes` reads: its models sometimes write JSON."""

    opens, closes = OPENS, CLOSES
    prefix, suffix = f"{OPENS}\n", f"\n{CLOSES}"

    def rules(self, tools: Sequence[Offered], term: Term) -> str:
        """Return the grammar of a function with its parameters."""
        return function_rules(tools, _DELIMITERS, lambda name: term(f"<function={name}>\n"), '"</function>"')


def of_template(template: str) -> QwenXml | None:
    """Return the format if a template has its marks."""
    marks = (OPENS, "<function=", "<parameter=")
    return QwenXml() if all(mark in template for mark in marks) else None


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
