"""How models write what they think aloud before an answer: marks around it, found in their chat template."""

from __future__ import annotations

from typing import NamedTuple


class Thinking(NamedTuple):
    """Marks of thinking.

    Attributes:
        opens: begins it.
        closes: ends it; behind it comes the answer.
        tokens: texts of these two that a tokenizer may have as special tokens, which are no text otherwise.
    """

    opens: str
    closes: str
    tokens: tuple[str, ...]

    def is_open(self, prompt: str) -> bool:
        """Whether a prompt has opened the thinking."""
        return prompt.rstrip().endswith(self.opens)


PLAIN = Thinking("<think>", "</think>", ("<think>", "</think>"))
GEMMA = Thinking("<|channel>thought", "<channel|>", ("<|channel>", "<channel|>"))
"""Gemma 4 names a channel; of others than this one nothing is published."""


def thinking_of(template: str) -> Thinking | None:
    """Return the marks that a chat template knows; None: its model does not think aloud, or as gpt-oss does."""
    return next((known for known in (GEMMA, PLAIN) if known.closes in template), None)
