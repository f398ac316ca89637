"""Qwen3-Coder's XML, of Nemotron 3 too: ``<function=NAME>`` around ``<parameter=KEY>`` with its value."""

from __future__ import annotations

from collections.abc import Sequence

from edge_runtime.service.openai.call_formats.base import (
    Delimiters,
    Offered,
    Term,
    function_rules,
)
from edge_runtime.service.openai.call_formats.hermes import CLOSES, OPENS, Hermes

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
