"""A request as the serving loop sees it: what to generate, where to send it, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.generation import Chunk
from edge_runtime.engine.sampler import Constraint, SamplingParams
from edge_runtime.telemetry.report import Timings


class TokenLogprob(NamedTuple):
    """Log probability of a token under the model itself: before temperature, penalties and constraints."""

    token_id: int
    logprob: float


class TokenEvent(NamedTuple):
    """A token was generated.

    Attributes:
        chunk: text that became certain, token, finish reason.
        logprob: of the token, None if nobody asked.
        top: the likeliest tokens, best first.
    """

    chunk: Chunk
    logprob: float | None
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class Outcome:
    """A request is over.

    Attributes:
        finish_reason: 'stop', 'length', 'tool_calls' or 'cancelled'.
        limit: what cut it short besides its own max_tokens: 'time' or None.
        timings: of the request.
        experts: the contract's expert counters while it ran, shared with requests that ran beside it.
        policy: name and parameters.
        concurrent: most requests that ran together with it, itself included.
        queue_ms: time it waited.
    """

    finish_reason: str
    limit: str | None
    timings: Timings
    experts: dict[str, Any]
    policy: dict[str, Any]
    concurrent: int
    queue_ms: float


def _as_it_is(reason: str, text: str) -> str:
    """The reason the loop found."""
    return reason


Event = TokenEvent | Outcome | Exception


class Job:
    """One request. Made by the HTTP side, run by the serving loop.

    Args:
        prompt_ids: int32 [N].
        params: sampling parameters.
        deliver: called by the serving loop with every event; must not block.
        logprobs: None without, else how many alternatives a token.
        constraint: which tokens may be drawn.
        time_limit_s: longest time from start to end.
        policy: ``name:param=value`` for this request, None for the engine's.
        name_reason: given why generation ended and the whole text, what to call it.
    """

    def __init__(
        self,
        prompt_ids: NDArray[np.int32],
        params: SamplingParams,
        deliver: Callable[[Event], None],
        *,
        logprobs: int | None = None,
        constraint: Constraint | None = None,
        time_limit_s: float | None = None,
        policy: str | None = None,
        name_reason: Callable[[str, str], str] = _as_it_is,
    ) -> None:
        self.prompt_ids, self.params, self.deliver = prompt_ids, params, deliver
        self.logprobs, self.constraint, self.time_limit_s, self.policy = logprobs, constraint, time_limit_s, policy
        self.name_reason = name_reason
        self.submitted = monotonic()
        self.is_cancelled = False

    def cancel(self) -> None:
        """Stop generating before the next token. Safe from any thread, at any time."""
        self.is_cancelled = True
