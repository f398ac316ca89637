"""Nemotron before its third generation: a JSON list of calls between ``<TOOLCALL>`` marks."""

from __future__ import annotations

import json
from collections.abc import Sequence

from edge_runtime.service.openai.call_formats.base import Function, Offered, Schemas, Term, json_call_rules, loads
from edge_runtime.service.openai.call_formats.hermes import json_call

OPENS, CLOSES = "<TOOLCALL>", "</TOOLCALL>"


class Nemotron:
    """The format."""

    opens, closes = OPENS, CLOSES
    prefix, suffix = f"{OPENS}[", f"]{CLOSES}"

    def read(self, text: str, schemas: Schemas) -> list[Function] | None:
        """Read a list of calls, or one."""
        try:
            calls = loads(text)
        except ValueError:
            return None
        found = [json_call(json.dumps(call)) for call in (calls if isinstance(calls, list) else [calls])]
        functions = [function for function in found if function is not None]
        return functions if functions and len(functions) == len(found) else None

    def rules(self, tools: Sequence[Offered], term: Term) -> str:
        """Return the grammar of one call."""
        return json_call_rules(tools)


def of_template(template: str) -> Nemotron | None:
    """Return the format if a template has its marks."""
    return Nemotron() if OPENS in template else None
