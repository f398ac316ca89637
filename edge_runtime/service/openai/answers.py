"""Answers as OpenAI's clients expect them: built token by token, as updates of a stream or as one object."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from time import time
from typing import Any

from edge_runtime.engine.job import Outcome, TokenEvent, TokenLogprob
from edge_runtime.service.openai.grammar import Vocabulary
from edge_runtime.service.openai.output_splitter import Delta, OutputSplitter
from edge_runtime.service.openai.requests import ChatRequest, CompletionRequest, GenerationRequest

_LEAST_LOGPROB = -9999.0


class Answer:
    """What both kinds of answer share.

    Args:
        request: what was asked.
        model: id of the model.
        vocabulary: bytes of tokens, for log probabilities.
        prompt_tokens: tokens of the prompt.
    """

    prefix = ""
    kind = ""
    update_kind = ""

    def __init__(self, request: GenerationRequest, model: str, vocabulary: Vocabulary, prompt_tokens: int) -> None:
        self._include_usage = request.include_usage
        self._vocabulary, self._prompt_tokens = vocabulary, prompt_tokens
        self._head = {"id": f"{self.prefix}-{secrets.token_hex(12)}", "created": int(time()), "model": model}
        self._tokens = 0

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
        """Return the last updates: what was held back, the reason, the usage if asked for."""
        raise NotImplementedError

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """Return the answer as one object, after every token was noted."""
        raise NotImplementedError

    def _update(self, choice: dict[str, Any] | None, **extra: Any) -> dict[str, Any]:
        choices = [] if choice is None else [{"index": 0, **choice}]
        update = {**self._head, "object": self.update_kind, "choices": choices, **extra}
        return {**update, "usage": None} if self._include_usage and "usage" not in extra else update

    def _last_updates(self, choice: dict[str, Any], outcome: Outcome) -> list[dict[str, Any]]:
        updates = [self._update(choice, **_vendor(outcome))]
        if self._include_usage:
            updates.append(self._update(None, usage=self._usage(outcome)))
        return updates

    def _complete(self, choice: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
        whole = {**self._head, "object": self.kind, "choices": [{"index": 0, **choice}]}
        return {**whole, "usage": self._usage(outcome), **_vendor(outcome)}

    def _usage(self, outcome: Outcome) -> dict[str, Any]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._tokens,
            "total_tokens": self._prompt_tokens + self._tokens,
            "prompt_tokens_details": {"cached_tokens": outcome.timings.cached_n},
        }


class ChatAnswer(Answer):
    """`chat.completion`: an answer with one message.

    Args:
        splitter: takes the model's text apart.
    """

    prefix, kind, update_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(
        self, request: ChatRequest, model: str, vocabulary: Vocabulary, prompt_tokens: int, splitter: OutputSplitter
    ) -> None:
        super().__init__(request, model, vocabulary, prompt_tokens)
        self._splitter = splitter
        self._content, self._reasoning = "", ""
        self._calls: list[dict[str, Any]] = []
        self._logprobs: list[dict[str, Any]] | None = None if request.alternatives is None else []

    def name_reason(self, reason: str, text: str) -> str:
        """Return what clients call the reason generation ended: a text with tool calls ends for them."""
        return "tool_calls" if reason == "stop" and self._splitter.count_calls(text) else reason

    def first(self) -> list[dict[str, Any]]:
        """Say who speaks, before any token."""
        return [self._update({"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None})]

    def token(self, event: TokenEvent) -> list[dict[str, Any]]:
        """Note a token; return the updates it makes."""
        self._tokens += 1
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
            out.append(self._update({"delta": delta, "logprobs": logprobs, "finish_reason": None}))
            logprobs = None
        return out

    def end(self, outcome: Outcome) -> list[dict[str, Any]]:
        """Return the last updates: what was held back, the reason, the usage if asked for."""
        rest = [self._note(delta) for delta in self._splitter.flush()]
        updates = [self._update({"delta": delta, "logprobs": None, "finish_reason": None}) for delta in rest]
        return updates + self._last_updates(
            {"delta": {}, "logprobs": None, "finish_reason": outcome.finish_reason}, outcome
        )

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """Return the answer as one object, after every token was noted."""
        for delta in self._splitter.flush():
            self._note(delta)
        message: dict[str, Any] = {"role": "assistant", "content": self._content, "refusal": None}
        if self._calls:
            message["tool_calls"] = [{k: v for k, v in call.items() if k != "index"} for call in self._calls]
            message["content"] = self._content or None
        if self._reasoning:
            message["reasoning_content"] = self._reasoning
        logprobs = None if self._logprobs is None else {"content": self._logprobs, "refusal": None}
        choice = {"message": message, "logprobs": logprobs, "finish_reason": outcome.finish_reason}
        return self._complete(choice, outcome)

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


class CompletionAnswer(Answer):
    """`text_completion`: an answer with one text.

    Args:
        prompt: text to repeat in front, empty without echo.
    """

    prefix, kind, update_kind = "cmpl", "text_completion", "text_completion"

    def __init__(
        self, request: CompletionRequest, model: str, vocabulary: Vocabulary, prompt_tokens: int, prompt: str
    ) -> None:
        super().__init__(request, model, vocabulary, prompt_tokens)
        self._prompt = self._text = prompt
        self._logprobs: dict[str, list[Any]] | None = None
        if request.alternatives is not None:
            self._logprobs = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}

    def first(self) -> list[dict[str, Any]]:
        """Repeat the prompt if it was asked for, before any token."""
        if not self._prompt:
            return []
        return [self._update({"text": self._prompt, "logprobs": None, "finish_reason": None})]

    def token(self, event: TokenEvent) -> list[dict[str, Any]]:
        """Note a token; return the updates it makes."""
        self._tokens += 1
        logprobs = self._one(event) if self._logprobs is not None and event.logprob is not None else None
        self._text += event.delta.text
        if not event.delta.text and logprobs is None:
            return []
        return [self._update({"text": event.delta.text, "logprobs": logprobs, "finish_reason": None})]

    def end(self, outcome: Outcome) -> list[dict[str, Any]]:
        """Return the last updates: what was held back, the reason, the usage if asked for."""
        return self._last_updates({"text": "", "logprobs": None, "finish_reason": outcome.finish_reason}, outcome)

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """Return the answer as one object, after every token was noted."""
        choice = {"text": self._text, "logprobs": self._logprobs, "finish_reason": outcome.finish_reason}
        return self._complete(choice, outcome)

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


def _vendor(outcome: Outcome) -> dict[str, Any]:
    """llama.cpp's `timings`, and the one object of our own."""
    timings = outcome.timings.to_json()
    names = ("prompt_n", "prompt_ms", "prompt_per_second", "predicted_n", "predicted_ms", "predicted_per_second")
    return {
        "timings": {"cache_n": timings["cached_n"], **{name: timings[name] for name in names}},
        "hobbit": {
            "experts": outcome.experts,
            "energy": None,
            "policy": outcome.policy,
            "limit": outcome.limit,
            "concurrent": outcome.concurrent,
            "queue_ms": outcome.queue_ms,
        },
    }
