"""A text that goes on from a prompt, and the prompt itself if it is to be repeated, with what the model says of it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from edge_runtime.base.arrays import I32
from edge_runtime.engine.job import Outcome, PromptEvent, TokenEvent, TokenLogprob
from edge_runtime.service.openai.choices import Choice
from edge_runtime.service.openai.grammar import Vocabulary
from edge_runtime.service.openai.logprobs import LazyList, LogprobTable, Row, finite
from edge_runtime.service.openai.requests import CompletionRequest


class Echo(NamedTuple):
    """A prompt that is repeated in front of the answer.

    Attributes:
        text: the prompt; empty: it is not repeated.
        token_ids: int32 [N], its tokens.
        starts: where in the text each of them begins, if they are to be scored; else empty.
    """

    text: str
    token_ids: I32
    starts: Sequence[int] = ()

    def text_of(self, first: int, end: int) -> str:
        """Return the text of its tokens from `first` up to `end`."""
        return self.text[self.starts[first] : self.starts[end] if end < len(self.starts) else len(self.text)]


class CompletionChoice(Choice):
    """A text.

    Args:
        request: what was asked.
        vocabulary: bytes of tokens, for log probabilities.
        echo: the prompt.
    """

    def __init__(self, request: CompletionRequest, vocabulary: Vocabulary, echo: Echo) -> None:
        super().__init__(vocabulary)
        self._echo, self._text = echo, echo.text
        self._table = None if request.alternatives is None else LogprobTable()
        self._offsets = array("q")
        if self._table is not None and echo.starts:
            self._add(self._table, Row(int(echo.token_ids[0]), None), echo.starts[0])

    def first(self) -> list[dict[str, Any]]:
        """Repeat the prompt if it was asked for, before any token; if it is to be scored, its first token."""
        if self._table is None or not self._echo.starts:
            text, logprobs = self._echo.text, None
        else:
            text, logprobs = self._echo.text_of(0, 1), self._columns([*self._table], self._offsets)
        return [{"text": text, "logprobs": logprobs, "finish_reason": None}] if text or logprobs else []

    def prompt(self, event: PromptEvent) -> list[dict[str, Any]]:
        """Note scores of the prompt; return the update they make, with their part of its text."""
        assert self._table is not None
        echo, end = self._echo, event.start + len(event.logprobs)
        rows = [
            self._add(self._table, Row(token, logprob, list(map(TokenLogprob, ids, values))), start)
            for token, logprob, ids, values, start in zip(
                echo.token_ids[event.start : end].tolist(), event.logprobs.tolist(), event.top_ids.tolist(),
                event.top_logprobs.tolist(), echo.starts[event.start : end], strict=True,
            )
        ]  # fmt: skip
        logprobs = self._columns(rows, echo.starts[event.start : end])
        return [{"text": echo.text_of(event.start, end), "logprobs": logprobs, "finish_reason": None}]

    def token(self, event: TokenEvent) -> list[dict[str, Any]]:
        """Note a token; return the updates it makes."""
        self.tokens += 1
        logprobs = None
        if self._table is not None and event.logprob is not None:
            row = self._add(self._table, Row(event.delta.token_id, event.logprob, event.top), len(self._text))
            logprobs = self._columns([row], [len(self._text)])
        self._text += event.delta.text
        if not event.delta.text and logprobs is None:
            return []
        return [{"text": event.delta.text, "logprobs": logprobs, "finish_reason": None}]

    def end(self, outcome: Outcome) -> list[dict[str, Any]]:
        """Return the last update: the reason."""
        return [{"text": "", "logprobs": None, "finish_reason": outcome.finish_reason}]

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """Return the choice as one object, after every token was noted."""
        logprobs = None
        if (table := self._table) is not None:
            logprobs = {
                "tokens": LazyList(lambda: (self._name(row.token_id) for row in table)),
                "token_logprobs": LazyList(lambda: (finite(row.logprob) for row in table)),
                "top_logprobs": LazyList(lambda: map(self._top, table)),
                "text_offset": LazyList(lambda: self._offsets),
            }
        return {"text": self._text, "logprobs": logprobs, "finish_reason": outcome.finish_reason}

    def _add(self, table: LogprobTable, row: Row, offset: int) -> Row:
        self._offsets.append(offset)
        return table.add(row)

    def _columns(self, rows: Sequence[Row], offsets: Sequence[int]) -> dict[str, list[Any]]:
        return {
            "tokens": [self._name(row.token_id) for row in rows],
            "token_logprobs": [finite(row.logprob) for row in rows],
            "top_logprobs": [self._top(row) for row in rows],
            "text_offset": list(offsets),
        }

    def _top(self, row: Row) -> dict[str, float | None] | None:
        if row.logprob is None:
            return None
        found: dict[str, float | None] = {}
        for entry in row.top:  # two tokens may have the same bytes: the likelier counts
            found.setdefault(self._name(entry.token_id), finite(entry.logprob))
        return found

    def _name(self, token_id: int) -> str:
        """A token's text; of one that is no whole text its bytes, as OpenAI writes them."""
        raw = self._vocabulary.bytes_of(token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
