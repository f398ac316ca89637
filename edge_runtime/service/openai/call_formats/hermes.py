"""Hermes: a JSON object with name and arguments between ``<tool_call>`` marks (Qwen3 and many others)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from edge_runtime.service.openai.call_formats.base import Function, Offered, Schemas, Term, json_call_rules, loads
from edge_runtime.service.openai.call_formats.function_xml import xml_call

OPENS, CLOSES = "<tool_call>", "</tool_call>"


class Hermes:
    """The format."""

    opens, closes = OPENS, CLOSES
    prefix, suffix = f"{OPENS}\n", f"\n{CLOSES}"

    def read(self, text: str, schemas: Schemas) -> list[Function] | None:
        """Read one call. Models with these marks sometimes write Qwen3-Coder's XML."""
        found = json_call(text) or xml_call(text, schemas)
        return None if found is None else [found]

    def rules(self, tools: Sequence[Offered], term: Term) -> str:
        """Return the grammar of the object."""
        return json_call_rules(tools)


def of_template(template: str) -> Hermes | None:
    """Return the format if a template has its marks."""
    return Hermes() if OPENS in template else None


def json_call(text: str) -> Function | None:
    """Read a JSON object with name and arguments; None if it is something else."""
    try:
        call = loads(text)
        return Function(str(call["name"]), json.dumps(call.get("arguments", {})))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
