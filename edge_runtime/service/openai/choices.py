"""One answer to one prompt, built token by token: as OpenAI's choice object, or as the updates of a stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from edge_runtime.engine.job import Outcome, TokenEvent, TokenLogprob
from edge_runtime.service.openai.grammar import Vocabulary
from edge_runtime.service.openai.harmony import AnswerSplitter
from edge_runtime.service.openai.output_splitter import Delta
from edge_runtime.service.openai.requests import ChatRequest, CompletionRequest

_LEAST_LOGPROB = -9999.0


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
        self._logprobs: list[dict[str, Any]] | None = None if request.alternatives is None else []

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
            entry = self._entry(TokenLogprob(event.delta.token_id, event.logprob))
            entry["top_logprobs"] = [self._entry(top) for top in event.top]
            self._logprobs.append(entry)
            logprobs = {"content": [entry], "refusal": None}
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
        logprobs = None if self._logprobs is None else {"content": self._logprobs, "refusal": None}
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

    def _entry(self, token: TokenLogprob) -> dict[str, Any]:
        raw = self._vocabulary.bytes_of(token.token_id)
        return {"token": raw.decode("utf-8", "replace"), "logprob": _finite(token.logprob), "bytes": list(raw)}


class CompletionChoice(Choice):
    """A text.

    Args:
        request: what was asked.
        vocabulary: bytes of tokens, for log probabilities.
        prompt: text to repeat in front, empty without echo.
    """

    def __init__(self, request: CompletionRequest, vocabulary: Vocabulary, prompt: str) -> None:
        super().__init__(vocabulary)
        self._prompt = self._text = prompt
        self._logprobs: dict[str, list[Any]] | None = None
        if request.alternatives is not None:
            self._logprobs = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}

    def first(self) -> list[dict[str, Any]]:
        """Repeat the prompt if it was asked for, before any token."""
        if not self._prompt:
            return []
        return [{"text": self._prompt, "logprobs": None, "finish_reason": None}]

    def token(self, event: TokenEvent) -> list[dict[str, Any]]:
        """Note a token; return the updates it makes."""
        self.tokens += 1
        logprobs = self._one(event) if self._logprobs is not None and event.logprob is not None else None
        self._text += event.delta.text
        if not event.delta.text and logprobs is None:
            return []
        return [{"text": event.delta.text, "logprobs": logprobs, "finish_reason": None}]

    def end(self, outcome: Outcome) -> list[dict[str, Any]]:
        """Return the last update: the reason."""
        return [{"text": "", "logprobs": None, "finish_reason": outcome.finish_reason}]

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """Return the choice as one object, after every token was noted."""
        return {"text": self._text, "logprobs": self._logprobs, "finish_reason": outcome.finish_reason}

    def _one(self, event: TokenEvent) -> dict[str, list[Any]]:
        assert self._logprobs is not None
        assert event.logprob is not None
        one: dict[str, list[Any]] = {
            "tokens": [self._name(event.delta.token_id)],
            "token_logprobs": [_finite(event.logprob)],
            "top_logprobs": [self._top(event.top)],
            "text_offset": [len(self._text)],
        }
        for name, values in one.items():
            self._logprobs[name] += values
        return one

    def _top(self, top: Sequence[TokenLogprob]) -> dict[str, float]:
        return {self._name(entry.token_id): _finite(entry.logprob) for entry in top}

    def _name(self, token_id: int) -> str:
        return self._vocabulary.bytes_of(token_id).decode("utf-8", "replace")


def _finite(logprob: float) -> float:
    return round(logprob, 6) if math.isfinite(logprob) else _LEAST_LOGPROB
