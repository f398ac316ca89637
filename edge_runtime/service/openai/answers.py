"""Answers as OpenAI's clients expect them: their choices joined, as updates of a stream or as one object."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import time
from typing import Any

from edge_runtime.engine.job import Outcome, PromptEvent, TokenEvent
from edge_runtime.service.openai.choices import Choice
from edge_runtime.telemetry.report import Timings

_SUMMED = ("prompt_n", "prompt_ms", "predicted_n", "predicted_ms")


@dataclass(frozen=True)
class AnswerKind:
    """What the objects of an answer are called.

    Attributes:
        prefix: of the id.
        whole: of the one object.
        update: of an update of a stream.
    """

    prefix: str
    whole: str
    update: str


CHAT = AnswerKind("chatcmpl", "chat.completion", "chat.completion.chunk")
COMPLETION = AnswerKind("cmpl", "text_completion", "text_completion")


class Answer:
    """The answer to one request: one or more choices for each prompt.

    Args:
        kind: how its objects are called.
        model: id of the model.
        choices: those of the first prompt, then those of the second, and so on.
        prompt_tokens: tokens of each prompt.
        include_usage: a stream ends with the usage.
    """

    def __init__(
        self,
        kind: AnswerKind,
        model: str,
        choices: Sequence[Choice],
        prompt_tokens: Sequence[int],
        *,
        include_usage: bool,
    ) -> None:
        self._kind, self._choices, self._prompt_tokens = kind, choices, prompt_tokens
        self._include_usage = include_usage
        self._head = {"id": f"{kind.prefix}-{secrets.token_hex(12)}", "created": int(time()), "model": model}
        self._outcomes: dict[int, Outcome] = {}

    def __len__(self) -> int:
        """How many choices it has."""
        return len(self._choices)

    @property
    def is_over(self) -> bool:
        """Whether every choice has ended."""
        return len(self._outcomes) == len(self._choices)

    def first(self) -> list[dict[str, Any]]:
        """Updates to send before any token."""
        return [self._update(i, one) for i, choice in enumerate(self._choices) for one in choice.first()]

    def note(self, index: int, event: TokenEvent | PromptEvent) -> list[dict[str, Any]]:
        """Note a token of a choice, or scores of its prompt; return the updates they make."""
        choice = self._choices[index]
        updates = choice.token(event) if isinstance(event, TokenEvent) else choice.prompt(event)
        return [self._update(index, one) for one in updates]

    def end(self, index: int, outcome: Outcome) -> list[dict[str, Any]]:
        """Note the end of a choice; return its last updates, and the usage with the last choice if it was asked for."""
        self._outcomes[index] = outcome
        *rest, last = self._choices[index].end(outcome)
        updates = [self._update(index, one) for one in rest]
        updates.append(self._update(index, last, **_vendor([outcome], outcome)))
        if self._include_usage and self.is_over:
            updates.append(self._with_head([], usage=self._usage()))
        return updates

    def note_end(self, index: int, outcome: Outcome) -> None:
        """Note the end of a choice that is not streamed."""
        self._outcomes[index] = outcome

    def whole(self) -> dict[str, Any]:
        """Return the answer as one object, after every choice has ended; see `logprobs.encoded`."""
        choices = [{"index": i, **choice.whole(self._outcomes[i])} for i, choice in enumerate(self._choices)]
        last = next(reversed(self._outcomes.values()))
        vendor = _vendor([self._outcomes[i] for i in range(len(choices))], last)
        return {**self._head, "object": self._kind.whole, "choices": choices, "usage": self._usage(), **vendor}

    def _update(self, index: int, choice: Mapping[str, Any], **extra: Any) -> dict[str, Any]:
        return self._with_head([{"index": index, **choice}], **extra)

    def _with_head(self, choices: list[dict[str, Any]], **extra: Any) -> dict[str, Any]:
        update = {**self._head, "object": self._kind.update, "choices": choices, **extra}
        return {**update, "usage": None} if self._include_usage and "usage" not in extra else update

    def _usage(self) -> dict[str, Any]:
        prompt, generated = sum(self._prompt_tokens), sum(choice.tokens for choice in self._choices)
        each = len(self._choices) // len(self._prompt_tokens)
        firsts = [self._outcomes[i] for i in range(0, len(self._choices), each)]
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": sum(one.timings.cached_n for one in firsts)},
        }


def _vendor(outcomes: Sequence[Outcome], last: Outcome) -> dict[str, Any]:
    """llama.cpp's `timings`, and the one object of our own.

    Args:
        outcomes: of the choices it is about, in their order.
        last: the one that ended last: experts are counted from the start of the request on.
    """
    return {
        "timings": _timings([outcome.timings for outcome in outcomes]),
        "hobbit": {
            "experts": last.experts,
            "energy": last.energy,
            "policy": last.policy,
            "speculation": last.speculation,
            "limit": next((one.limit for one in outcomes if one.limit), None),
            "concurrent": max(one.concurrent for one in outcomes),
            "queue_ms": outcomes[0].queue_ms,
        },
    }


def _timings(timings: Sequence[Timings]) -> dict[str, Any]:
    """Times in llama.cpp's spelling, summed over choices."""
    each = [one.to_json() for one in timings]
    total: dict[str, Any] = {"cache_n": sum(one["cached_n"] for one in each)}
    total |= {name: round(sum(one[name] for one in each), 3) for name in _SUMMED}
    steps = sum(max(one["predicted_n"] - 1, 0) for one in each)
    total["prompt_per_second"] = _rate(total["prompt_n"], total["prompt_ms"])
    total["predicted_per_second"] = _rate(steps, total["predicted_ms"])
    return total


def _rate(count: int, milliseconds: float) -> float | None:
    return round(1000 * count / milliseconds, 3) if milliseconds > 0 and count > 0 else None
