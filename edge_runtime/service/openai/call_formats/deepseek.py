"""DeepSeek V3, R1 and V3.1: calls in a list of their own marks, V3's with the arguments fenced as a JSON block."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edge_runtime.service.openai.call_formats.base import Function, Offered, Schemas, Term, json_rule, loads

OPENS, CLOSES = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_BEGIN, _GAP, _END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_CALL = re.compile(rf"\s*{_BEGIN}(.*?){_GAP}(.*?){_END}", re.DOTALL)
_FENCED = re.compile(r"\s*([^\n]{1,256}?)\s*\n```(?:json)?\n(.*?)\n?```\s*", re.DOTALL)


@dataclass(frozen=True)
class DeepSeek:
    """The format.

    Attributes:
        is_fenced: as V3 and R1 write it; else as V3.1.
    """

    is_fenced: bool
    opens: str = OPENS
    closes: str = CLOSES
    marks: tuple[str, ...] = (OPENS, CLOSES, _BEGIN, _GAP, _END)

    @property
    def prefix(self) -> str:
        """How a list of one call begins."""
        return f"{OPENS}{_BEGIN}"

    @property
    def suffix(self) -> str:
        """How it ends."""
        return f"{_END}{CLOSES}"

    def read(self, text: str, schemas: Schemas) -> list[Function] | None:
        """Read a list of calls, in either way of writing them."""
        functions, at = [], 0
        while found := _CALL.match(text, at):
            name, arguments = found[1].strip(), found[2]
            if fenced := _FENCED.fullmatch(arguments):
                name, arguments = fenced[1], fenced[2]
            try:
                functions.append(Function(name, json.dumps(loads(arguments))))
            except ValueError:
                return None
            at = found.end()
        return functions if functions and not text[at:].strip() else None

    def rules(self, tools: Sequence[Offered], term: Term) -> str:
        """Return the grammar of one call."""
        rules, names = "", []
        for number, tool in enumerate(tools):
            before = f"function{_GAP}{tool.name}\n```json\n" if self.is_fenced else f"{tool.name}{_GAP}"
            after = ' "\\n```"' if self.is_fenced else ""
            schema = {"type": "object"} if tool.parameters is None else tool.parameters
            rules += f"call_{number}: {term(before)} args_{number}{after}\n"
            rules += f"args_{number}: {json_rule(schema)}\n"
            names.append(f"call_{number}")
        return f"call: {' | '.join(names)}\n{rules}"


def of_template(template: str) -> DeepSeek | None:
    """Return the format if a template has its marks."""
    return DeepSeek("```json" in template) if OPENS in template else None
