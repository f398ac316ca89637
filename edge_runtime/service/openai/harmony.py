"""Harmony, the format of gpt-oss: every message has a header with a channel, between marks that are special tokens.

``analysis`` is what the model thinks aloud, ``final`` the answer. A message to ``functions.NAME`` is a tool call.
Needs nothing of the extra `serve`: `hobbit chat` uses it too.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping

from edge_runtime.service.openai.output_splitter import Delta, OutputSplitter, overlap

START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
CONSTRAIN, END = "<|constrain|>", "<|end|>"
_ENDS = (END, "<|call|>", "<|return|>")
MARKS = (START, CHANNEL, MESSAGE, CONSTRAIN, *_ENDS)
FINAL = f"{CHANNEL}final{MESSAGE}"
"""Where the answer begins."""
TO_FINAL = f"{END}{START}assistant{FINAL}"
"""What ends the thinking and begins the answer."""
CALL_HEADER = f"{CHANNEL}commentary to=functions."
"""How a call begins; the name follows."""
_RECIPIENT = re.compile(r"\bto=functions\.([\w.-]{1,256})")


def is_harmony(template: str) -> bool:
    """Whether a chat template writes in this format."""
    return CHANNEL in template and MESSAGE in template


def shown_tokens(special: Mapping[int, str]) -> frozenset[int]:
    """Return the special tokens that the format is made of: without them in the text it cannot be read."""
    return frozenset(token for token, text in special.items() if text in MARKS)


class HarmonySplitter:
    """Splits streamed text into thinking, calls and the answer. Text that may become a mark is held back.

    Args:
        with_calls: tool calls may come.
        only_one_call: what follows the first tool call is dropped.
        text_is_last: once the final message has begun, all that follows is part of it, marks too.
    """

    def __init__(self, *, with_calls: bool, only_one_call: bool = False, text_is_last: bool = False) -> None:
        self._with_calls, self._only_one_call, self._text_is_last = with_calls, only_one_call, text_is_last
        self._is_over = self._in_body = False
        self._held = self._header = self._arguments = ""
        self._function: str | None = None

    def count_calls(self, text: str) -> int:
        """Return how many tool calls a whole text holds; what was pushed so far is not touched."""
        again = HarmonySplitter(
            with_calls=self._with_calls, only_one_call=self._only_one_call, text_is_last=self._text_is_last
        )
        return sum(delta.call is not None for delta in again.push(text) + again.flush())

    def push(self, text: str) -> list[Delta]:
        """Add text; return what is certain."""
        self._held += text
        out: list[Delta] = []
        while not self._is_over:
            if self._text_is_last and self._in_body and self._channel() == "final":
                out += self._text(self._held)
                self._held = ""
                break
            found = [(at, mark) for mark in MARKS if (at := self._held.find(mark)) >= 0]
            if not found:
                cut = len(self._held) - max(overlap(self._held, mark) for mark in MARKS)
                out += self._text(self._held[:cut])
                self._held = self._held[cut:]
                break
            at, mark = min(found)
            out += self._text(self._held[:at])
            self._held = self._held[at + len(mark) :]
            out += self._mark(mark)
        return out

    def flush(self) -> list[Delta]:
        """The text is over: the token that ended it is not part of it. A header without a message is text."""
        if self._is_over:
            return []
        held, self._held = self._held, ""
        out = self._text(held) + self._mark(_ENDS[0])
        self._is_over = True
        return out

    def _text(self, text: str) -> list[Delta]:
        if not self._in_body:
            self._header += text
        elif self._function is not None:
            self._arguments += text
        elif text:
            return [Delta(reasoning=text) if self._is_thought() else Delta(content=text)]
        return []

    def _mark(self, mark: str) -> list[Delta]:
        if mark == MESSAGE:
            to = _RECIPIENT.search(self._header) if self._with_calls else None
            self._in_body, self._function, self._arguments = True, to and to[1], ""
            return []
        if not self._in_body and mark not in (START, *_ENDS):
            self._header += mark
            return []
        out = self._end()
        self._in_body, self._header, self._function = False, mark if mark == CHANNEL else "", None
        return out

    def _is_thought(self) -> bool:
        return self._channel().startswith("analysis")

    def _channel(self) -> str:
        return self._header.rpartition(CHANNEL)[2].strip()

    def _end(self) -> list[Delta]:
        """A message is over, or something that never became one."""
        if not self._in_body:
            stray = "" if CHANNEL in self._header else self._header.removeprefix("assistant").strip()
            return [Delta(content=stray)] if stray else []
        if self._function is None:
            return []
        try:
            arguments = json.dumps(json.loads(self._arguments or "{}"))
        except (ValueError, RecursionError):
            return [Delta(content=self._arguments)]  # not a call after all: show what the model wrote
        self._is_over = self._only_one_call
        function = {"name": self._function, "arguments": arguments}
        return [Delta(call={"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function})]


AnswerSplitter = OutputSplitter | HarmonySplitter
"""Whatever splits a model's answer."""
