"""Gemma 4: ``call:NAME{key:value,...}`` between marks; strings stand between marks of their own, unescaped."""

from __future__ import annotations

import json
from collections.abc import Sequence

from edge_runtime.service.openai.call_formats.base import Function, Offered, Schemas, Term, call_rules, properties_of
from edge_runtime.service.openai.call_formats.literal_rules import LiteralRules
from edge_runtime.service.openai.call_formats.literals import Reader, Style, as_text_where_asked

OPENS, CLOSES, QUOTE = "<|tool_call>", "<tool_call|>", '<|"|>'
_CALL = "call:"
_STYLE = Style(quote=QUOTE, words=("true", "false", "null"), comma=",", colon=":", has_bare_keys=True)


class Gemma:
    """The format."""

    opens, closes = OPENS, CLOSES
    prefix, suffix = f"{OPENS}{_CALL}", CLOSES
    marks = (OPENS, CLOSES, QUOTE)

    def read(self, text: str, schemas: Schemas) -> list[Function] | None:
        """Read one call."""
        reader = Reader(text, _STYLE)
        try:
            reader.expect(_CALL)
            name = reader.name()
            reader.expect("{")
            arguments = reader.members(":", "}")
        except (ValueError, RecursionError):
            return None
        known = as_text_where_asked(arguments, properties_of(schemas, name))
        return [Function(name, json.dumps(known))] if reader.is_over() else None

    def rules(self, tools: Sequence[Offered], term: Term) -> str:
        """Return the grammar of a name with its arguments."""
        rules, calls = LiteralRules(_STYLE, term), ""
        for number, tool in enumerate(tools):
            arguments = rules.arguments(f"args_{number}", tool, ":")
            calls += f'call_{number}: {term(tool.name + "{")} {arguments} "}}"\n'
        return call_rules([f"call_{i}" for i in range(len(tools))], calls + rules.text())


def of_template(template: str) -> Gemma | None:
    """Return the format if a template has its marks."""
    return Gemma() if OPENS in template and QUOTE in template else None
