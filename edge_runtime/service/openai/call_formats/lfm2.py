"""LFM2: a list of calls as Python writes them, ``[name(key="value")]``, between marks; or of objects in JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from edge_runtime.service.openai.call_formats.base import (
    Function,
    Offered,
    Schemas,
    Term,
    call_rules,
    loads,
    properties_of,
)
from edge_runtime.service.openai.call_formats.hermes import json_call
from edge_runtime.service.openai.call_formats.literal_rules import LiteralRules
from edge_runtime.service.openai.call_formats.literals import Reader, Style, as_text_where_asked

OPENS, CLOSES = "<|tool_call_start|>", "<|tool_call_end|>"
_STYLE = Style(quote="", words=("True", "False", "None"), comma=", ", colon=": ", has_bare_keys=False)


class Lfm2:
    """The format."""

    opens, closes = OPENS, CLOSES
    prefix, suffix = f"{OPENS}[", f"]{CLOSES}"

    def read(self, text: str, schemas: Schemas) -> list[Function] | None:
        """Read a list of calls, or one."""
        try:
            return _pythonic(text, schemas)
        except (ValueError, RecursionError):
            return _json(text)

    def rules(self, tools: Sequence[Offered], term: Term) -> str:
        """Return the grammar of one call, as Python writes it."""
        rules, calls = LiteralRules(_STYLE, term), ""
        for number, tool in enumerate(tools):
            arguments = rules.arguments(f"args_{number}", tool, "=")
            calls += f'call_{number}: {term(tool.name + "(")} {arguments} ")"\n'
        return call_rules([f"call_{i}" for i in range(len(tools))], calls + rules.text())


def of_template(template: str) -> Lfm2 | None:
    """Return the format if a template has its marks, or the words with which those of this family list tools."""
    return Lfm2() if OPENS in template or "List of tools: " in template else None


def _pythonic(text: str, schemas: Schemas) -> list[Function]:
    reader = Reader(text, _STYLE)
    functions: list[Function] = []
    is_list = reader.takes("[")
    while not functions or reader.takes(","):
        name = reader.name()
        reader.expect("(")
        arguments = as_text_where_asked(reader.members("=", ")"), properties_of(schemas, name))
        functions.append(Function(name, json.dumps(arguments)))
    if is_list:
        reader.expect("]")
    if not reader.is_over():
        raise ValueError("something follows")
    return functions


def _json(text: str) -> list[Function] | None:
    try:
        calls = loads(text)
    except ValueError:
        return None
    found = [json_call(json.dumps(call)) for call in (calls if isinstance(calls, list) else [calls])]
    functions = [function for function in found if function is not None]
    return functions if functions and len(functions) == len(found) else None
