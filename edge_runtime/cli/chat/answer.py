"""Shows an answer as it comes: what the model thinks aloud is dimmed, or goes to stderr where stdout is a file."""

from __future__ import annotations

import sys

from edge_runtime.cli.chat.terminal import Terminal
from edge_runtime.engine.tokenizer import Tokenizer
from edge_runtime.service.openai.harmony import AnswerSplitter, HarmonySplitter, is_harmony, shown_tokens
from edge_runtime.service.openai.output_splitter import Delta, OutputSplitter
from edge_runtime.service.openai.thinking import thinking_of


class Answer:
    """One answer, split and shown.

    Args:
        terminal: where it is shown.
        splitter: takes the thinking out of the text.
        is_shown: whether anything is written.
        shows_reasoning: whether the thinking is.

    Attributes:
        text: what the model said.
        reasoning: what it thought aloud.
    """

    def __init__(
        self,
        terminal: Terminal,
        splitter: AnswerSplitter,
        *,
        is_shown: bool = True,
        shows_reasoning: bool = True,
    ) -> None:
        self._terminal, self._splitter = terminal, splitter
        self._is_shown, self._shows_reasoning = is_shown, shows_reasoning
        self._is_thinking = False
        self.text = self.reasoning = ""

    def push(self, text: str) -> None:
        """Take what a token adds."""
        self._take(self._splitter.push(text))

    def end(self) -> None:
        """Nothing follows."""
        self._take(self._splitter.flush())
        self._think(False)
        if self._is_shown:
            self._terminal.write("\n")

    def _take(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            self.text += delta.content
            self.reasoning += delta.reasoning
            if not self._is_shown:
                continue
            if delta.reasoning and self._shows_reasoning:
                self._think(True)
                self._show_reasoning(delta.reasoning)
            if delta.content:
                self._think(False)
                self._terminal.write(delta.content)

    def _think(self, is_thinking: bool) -> None:
        """Set thinking and answer apart; without style, by words."""
        if is_thinking == self._is_thinking:
            return
        self._is_thinking = is_thinking
        if is_thinking and not self._terminal.is_styled:
            self._show_reasoning("(thinking)\n")
        if not is_thinking:
            self._show_reasoning("\n\n" if self._terminal.is_styled else "\n(answer)\n")

    def _show_reasoning(self, text: str) -> None:
        if self._terminal.shows_answers:
            self._terminal.write(text, is_dim=True)
        else:
            sys.stderr.write(text)
            sys.stderr.flush()


def shown_in(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the special tokens that answers are made of."""
    template, special = tokenizer.chat_template or "", tokenizer.special_texts
    if is_harmony(template):
        return shown_tokens(special)
    marks = thinking_of(template)
    return frozenset() if marks is None else frozenset(token for token, text in special.items() if text in marks.tokens)


def splitter_for(tokenizer: Tokenizer, prompt: str) -> AnswerSplitter:
    """Return what splits the answer to a prompt; nothing is split where the template knows no thinking."""
    if is_harmony(tokenizer.chat_template or ""):
        return HarmonySplitter(with_calls=False)
    marks = thinking_of(tokenizer.chat_template or "")
    starts = marks is not None and marks.is_open(prompt)
    return OutputSplitter(with_calls=False, with_thinking=marks is not None, thinking=starts, marks=marks)
