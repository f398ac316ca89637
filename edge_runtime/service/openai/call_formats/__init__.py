"""Formats of tool calls, one file a format: what stands around a call, how it is read, how it is forced.

A model's format is found by marks of its chat template, in the order of `FORMATS`: the first whose marks are all there.
"""

from __future__ import annotations

from collections.abc import Callable

from edge_runtime.service.openai.call_formats import deepseek, gemma, glm, hermes, lfm2, minimax, nemotron, qwen_xml
from edge_runtime.service.openai.call_formats.base import CallFormat, Function, Offered

FORMATS: tuple[Callable[[str], CallFormat | None], ...] = (
    gemma.of_template, lfm2.of_template, minimax.of_template, deepseek.of_template, glm.of_template,
    qwen_xml.of_template, nemotron.of_template, hermes.of_template,
)  # fmt: skip


def format_of(template: str) -> CallFormat | None:
    """Return the format of tool calls a chat template asks for; None: it has no tools, or in no format known here."""
    if "tools" not in template:
        return None
    return next((found for of_template in FORMATS if (found := of_template(template)) is not None), None)


__all__ = ["FORMATS", "CallFormat", "Function", "Offered", "format_of"]
