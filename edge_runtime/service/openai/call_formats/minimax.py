"""MiniMax-M2: ``<invoke name="NAME">`` around ``<parameter name="KEY">`` with its value, in a list."""

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

OPENS, CLOSES = "<minimax:tool_call>", "</minimax:tool_call>"
_INVOKE = re.compile(r'\s*<invoke name="([^"<>\n]{1,256})">(.*?)</invoke>', re.DOTALL)
_PARAMETER = re.compile(r'\s*<parameter name="([^"<>\n]{1,256})">(.*?)</parameter>', re.DOTALL)

_DELIMITERS = Delimiters('<parameter name="', '">', "</parameter>\n")


class MiniMax:
    """The format."""

    opens, closes = OPENS, CLOSES
    prefix, suffix = f"{OPENS}\n", f"\n{CLOSES}"

    def read(self, text: str, schemas: Schemas) -> list[Function] | None:
        """Read a list of calls."""
        functions, at = [], 0
        while found := _INVOKE.match(text, at):
            arguments = _arguments(found[2], properties_of(schemas, found[1]))
            if arguments is None:
                return None
            functions.append(Function(found[1], json.dumps(arguments)))
            at = found.end()
        return functions if functions and not text[at:].strip() else None

    def rules(self, tools: Sequence[Offered], term: Term) -> str:
        """Return the grammar of one call."""
        return function_rules(tools, _DELIMITERS, lambda name: term(f'<invoke name="{name}">\n'), '"</invoke>"')


def of_template(template: str) -> MiniMax | None:
    """Return the format if a template has its marks."""
    return MiniMax() if "minimax:tool_call>" in template and "<invoke name=" in template else None


def _arguments(body: str, known: object) -> dict[str, object] | None:
    """Read parameters one after the other; None: there is something else."""
    schemas = known if isinstance(known, dict) else {}
    arguments: dict[str, object] = {}
    at = 0
    while found := _PARAMETER.match(body, at):
        arguments[found[1]] = value_of(found[2], schemas.get(found[1]))
        at = found.end()
    return None if body[at:].strip() else arguments
