"""Splits a model's answer into what it thinks aloud, tool calls, and text for the reader.

Needs nothing of the extra `serve`: `hobbit chat` uses it too.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_runtime.service.openai.call_formats.base import CallFormat
from edge_runtime.service.openai.call_formats.hermes import Hermes
from edge_runtime.service.openai.thinking import PLAIN, Thinking


@dataclass(frozen=True)
class Delta:
    """A part of the answer, by the field it belongs to.

    Attributes:
        content: text for the reader.
        reasoning: text the model thinks aloud.
        call: a complete tool call as OpenAI has it.
    """

    content: str = ""
    reasoning: str = ""
    call: dict[str, Any] | None = None


class OutputSplitter:
    """Splits streamed text at the model's markers. Text that may become a marker is held back.

    Args:
        with_calls: tool calls may come.
        with_thinking: thinking may come.
        thinking: the prompt has opened the thinking already.
        only_one_call: what follows the first tool call is dropped.
        schemas: of the tools' parameters by name: some formats do not say which values are text.
        calls: how the model writes tool calls.
        marks: of its thinking.
        text_is_last: once the text for the reader has begun, all that follows is part of it, marks too.
    """

    def __init__(
        self,
        *,
        with_calls: bool,
        with_thinking: bool,
        thinking: bool,
        only_one_call: bool = False,
        schemas: Mapping[str, Mapping[str, Any]] | None = None,
        calls: CallFormat | None = None,
        marks: Thinking | None = None,
        text_is_last: bool = False,
    ) -> None:
        self._options: dict[str, Any] = {
            "with_calls": with_calls,
            "with_thinking": with_thinking,
            "thinking": thinking,
            "only_one_call": only_one_call,
            "schemas": schemas,
            "calls": calls,
            "marks": marks,
            "text_is_last": text_is_last,
        }
        self._schemas = schemas or {}
        self._text_is_last, self._has_text = text_is_last, False
        self._only_one_call, self._is_over = only_one_call, False
        self._calls = calls or Hermes()
        self._marks = marks or PLAIN
        self._opens = [self._calls.opens] * with_calls + [self._marks.opens] * with_thinking
        self._inside = self._marks.opens if thinking else ""
        self._held = ""
        self._skip_space = thinking

    def count_calls(self, text: str) -> int:
        """Return how many tool calls a whole text holds; what was pushed so far is not touched."""
        if self._calls.opens not in self._opens or self._calls.closes not in text:
            return 0
        return sum(delta.call is not None for delta in OutputSplitter(**self._options).push(text))

    def push(self, text: str) -> list[Delta]:
        """Add text; return what is certain."""
        if self._is_over:
            return []
        if not self._opens and not self._inside and not self._skip_space:
            return [Delta(content=text)] if text else []
        self._held += text
        out: list[Delta] = []
        while self._step(out):
            pass
        return out

    def flush(self) -> list[Delta]:
        """The text is over: return what was held back; an unfinished call is text."""
        held, inside = self._held, self._inside
        self._held, self._inside = "", ""
        if inside == self._calls.opens:
            return [Delta(content=inside + held)]
        return self._plain(held, inside)

    def _step(self, out: list[Delta]) -> bool:
        """Handle text up to the next marker; False when more text is needed."""
        calls, marks = self._calls, self._marks
        opens = [] if self._text_is_last and self._has_text else self._opens
        markers = {calls.opens: [calls.closes], marks.opens: [marks.closes], "": opens}[self._inside]
        found = [(at, marker) for marker in markers if (at := self._held.find(marker)) >= 0]
        if found:
            at, marker = min(found)
            before, self._held = self._held[:at], self._held[at + len(marker) :]
            out += self._finish_call(before) if marker == calls.closes else self._plain(before, self._inside)
            self._inside = marker if marker in self._opens else ""
            self._skip_space = True
            return True
        if self._inside != calls.opens:
            keep = max((overlap(self._held, marker) for marker in markers), default=0)
            cut = len(self._held) - keep
            out += self._plain(self._held[:cut], self._inside)
            self._held = self._held[cut:]
        return False

    def _plain(self, text: str, inside: str) -> list[Delta]:
        if self._skip_space:  # templates put line breaks around markers
            text = text.lstrip()
            self._skip_space = not text
        if not text:
            return []
        if inside == self._marks.opens:
            return [Delta(reasoning=text)]
        self._has_text = True
        return [Delta(content=text)]

    def _finish_call(self, text: str) -> list[Delta]:
        functions = self._calls.read(text, self._schemas)
        if functions is None:  # not a call after all: show what the model wrote
            return [Delta(content=self._calls.opens + text + self._calls.closes)]
        if self._only_one_call:
            self._is_over, self._held = True, ""
            functions = functions[:1]
        return [
            Delta(call={"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function._asdict()})
            for function in functions
        ]


def overlap(text: str, marker: str) -> int:
    """Length of the longest end of text that starts marker."""
    return next((n for n in range(min(len(text), len(marker) - 1), 0, -1) if text.endswith(marker[:n])), 0)
