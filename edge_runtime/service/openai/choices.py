"""One answer to one prompt, built token by token: as OpenAI's choice object, or as the updates of a stream.

Here is what both kinds share, and that of chats; `completion_choice` has the other.
"""

from __future__ import annotations

from typing import Any

from edge_runtime.engine.job import Outcome, PromptEvent, TokenEvent, TokenLogprob
from edge_runtime.service.openai.grammar import Vocabulary
from edge_runtime.service.openai.harmony import AnswerSplitter
from edge_runtime.service.openai.logprobs import LazyList, LogprobTable, Row, finite
from edge_runtime.service.openai.output_splitter import Delta
from edge_runtime.service.openai.requests import ChatRequest


class Choice:
    """What both kinds of choice share. The objects it returns lack their index.

    Args:
        vocabulary: bytes of tokens, for log probabilities.

    Attributes:
        tokens: how many were noted.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.tokens = 0

    def name_reason(self, reason: str, text: str) -> str:
        """Return what clients call the reason generation ended, given the whole text. Safe from any thread."""
        return reason

    def first(self) -> list[dict[str, Any]]:
        """Updates to send before any token."""
        return []

    def token(self, event: TokenEvent) -> list[dict[str, Any]]:
        """Note a token; return the updates it makes."""
        raise NotImplementedError

    def prompt(self, event: PromptEvent) -> list[dict[str, Any]]:
        """Note scores of the prompt; return the updates they make."""
        raise NotImplementedError

    def end(self, outcome: Outcome) -> list[dict[str, Any]]:
        """Return the last updates: what was held back, then the reason."""
        raise NotImplementedError

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """Return the choice as one object, after every token was noted."""
        raise NotImplementedError


class ChatChoice(Choice):
    """A message.

    Args:
        request: what was asked.
        vocabulary: bytes of tokens, for log probabilities.
        splitter: takes the model's text apart.
    """

    def __init__(self, request: ChatRequest, vocabulary: Vocabulary, splitter: AnswerSplitter) -> None:
        super().__init__(vocabulary)
        self._splitter = splitter
        self._content, self._reasoning = "", ""
        self._calls: list[dict[str, Any]] = []
        self._logprobs = None if request.alternatives is None else LogprobTable()

    def name_reason(self, reason: str, text: str) -> str:
        """Return what clients call the reason generation ended: a text with tool calls ends for them."""
        return "tool_calls" if reason == "stop" and self._splitter.count_calls(text) else reason

    def first(self) -> list[dict[str, Any]]:
        """Say who speaks, before any token."""
        return [{"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}]

    def token(self, event: TokenEvent) -> list[dict[str, Any]]:
        """Note a token; return the updates it makes."""
        self.tokens += 1
        deltas = [self._note(delta) for delta in self._splitter.push(event.delta.text)]
        logprobs = None
        if self._logprobs is not None and event.logprob is not None:
            row = self._logprobs.add(Row(event.delta.token_id, event.logprob, event.top))
            logprobs = {"content": [self._row(row)], "refusal": None}
            deltas = deltas or [{}]
        out = []
        for delta in deltas:
            out.append({"delta": delta, "logprobs": logprobs, "finish_reason": None})
            logprobs = None
        return out

    def end(self, outcome: Outcome) -> list[dict[str, Any]]:
        """Return the last updates: what was held back, then the reason."""
        rest = [self._note(delta) for delta in self._splitter.flush()]
        updates = [{"delta": delta, "logprobs": None, "finish_reason": None} for delta in rest]
        return [*updates, {"delta": {}, "logprobs": None, "finish_reason": outcome.finish_reason}]

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """Return the choice as one object, after every token was noted."""
        for delta in self._splitter.flush():
            self._note(delta)
        message: dict[str, Any] = {"role": "assistant", "content": self._content, "refusal": None}
        if self._calls:
            message["tool_calls"] = [{k: v for k, v in call.items() if k != "index"} for call in self._calls]
            message["content"] = self._content or None
        if self._reasoning:
            message["reasoning_content"] = self._reasoning
        logprobs = None
        if (table := self._logprobs) is not None:
            logprobs = {"content": LazyList(lambda: map(self._row, table)), "refusal": None}
        return {"message": message, "logprobs": logprobs, "finish_reason": outcome.finish_reason}

    def _note(self, delta: Delta) -> dict[str, Any]:
        """Keep a delta and return it as OpenAI has it."""
        if delta.call is not None:
            call = {"index": len(self._calls), **delta.call}
            self._calls.append(call)
            return {"tool_calls": [call]}
        self._content += delta.content
        self._reasoning += delta.reasoning
        return {"reasoning_content": delta.reasoning} if delta.reasoning else {"content": delta.content}

    def _row(self, row: Row) -> dict[str, Any]:
        assert row.logprob is not None, "a prompt's first token is no part of a message"
        entry = self._entry(TokenLogprob(row.token_id, row.logprob))
        return {**entry, "top_logprobs": [self._entry(top) for top in row.top]}

    def _entry(self, token: TokenLogprob) -> dict[str, Any]:
        raw = self._vocabulary.bytes_of(token.token_id)
        return {"token": raw.decode("utf-8", "replace"), "logprob": finite(token.logprob), "bytes": list(raw)}
