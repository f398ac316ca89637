"""A request as the scheduler sees it: what to run, what happens meanwhile, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from time import monotonic
from typing import Any, NamedTuple

from edge_runtime.base.arrays import F32, F64, I32
from edge_runtime.engine.continuation import TextDelta
from edge_runtime.engine.sampler import Constraint, SamplingParams
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.telemetry.report import Timings


class TokenLogprob(NamedTuple):
    """Log probability of a token under the model itself: before temperature, penalties and constraints."""

    token_id: int
    logprob: float


class TokenEvent(NamedTuple):
    """A token was generated.

    Attributes:
        delta: text that became certain, token, finish reason.
        logprob: of the token, None if nobody asked.
        top: the likeliest tokens, best first.
    """

    delta: TextDelta
    logprob: float | None
    top: tuple[TokenLogprob, ...]


class PromptEvent(NamedTuple):
    """Tokens of a prompt were scored, each under those before it.

    Attributes:
        start: position of the first of them, at least 1.
        logprobs: float64 [t].
        top_ids: int32 [t, k], the likeliest tokens in the place of each, best first.
        top_logprobs: float64 [t, k].
    """

    start: int
    logprobs: F64
    top_ids: I32
    top_logprobs: F64


class LogitsEvent(NamedTuple):
    """A part of a text was scored.

    Attributes:
        start: position of its first token.
        logits: float32 [t, V], after each of its tokens.
    """

    start: int
    logits: F32


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
        energy: of the machine from the start of its request to its end; None if that was not measured.
        speculation: what became of drafts; None where nothing is drafted.
    """

    finish_reason: str
    limit: str | None
    timings: Timings
    experts: dict[str, Any]
    policy: dict[str, Any]
    concurrent: int
    queue_ms: float
    energy: dict[str, Any] | None = None
    speculation: dict[str, Any] | None = None


Event = TokenEvent | PromptEvent | LogitsEvent | Outcome | Exception
"""What a job hears of: tokens, scores or logits, then one outcome or the exception that ended it."""


def _as_it_is(reason: str, text: str) -> str:
    """The reason the scheduler found."""
    return reason


class Start(NamedTuple):
    """When a request began to run, and what had been counted by then.

    Attributes:
        at: monotonic seconds.
        counters: snapshot of the expert counters.
        tokens_run: tokens of all sequences that the scheduler had run.
    """

    at: float
    counters: ExpertCounters
    tokens_run: int


@dataclass(eq=False)
class JobGroup:
    """What the jobs of one request share: it began when the first of them did, and so did its time limit.

    Attributes:
        start: of the first; None before.
    """

    start: Start | None = None


@dataclass(eq=False)
class Job:
    """One answer to one prompt; a request may want several.

    Attributes:
        prompt_ids: int32 [N], at least one token.
        params: sampling parameters; without a seed the engine's is used.
        deliver: called with every event in the scheduler's thread; must not block.
        logprobs: None without, else how many alternatives a token.
        prompt_logprobs: the same for the tokens of the prompt; if wanted, all of it is run.
        constraint: which tokens may be drawn.
        time_limit_s: longest time from the start of its group.
        policy: ``name:param=value`` for this request, None for the engine's.
        name_reason: given why generation ended and the whole text, what to call it.
        reuse_prefix: go on from what a session holds of the prompt; never where the prompt is to be scored.
        score_chunk: nothing is generated: the logits after every token of the prompt are wanted, from passes of so many
            tokens.
        choice: number among the answers to one prompt: each draws tokens of its own from one seed.
        group: what it shares with the other jobs of its request.
        submitted: when it was made, monotonic seconds.
        is_cancelled: nobody waits for it any more.
    """

    prompt_ids: I32
    params: SamplingParams
    deliver: Callable[[Event], None]
    _: KW_ONLY
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    constraint: Constraint | None = None
    time_limit_s: float | None = None
    policy: str | None = None
    name_reason: Callable[[str, str], str] = _as_it_is
    reuse_prefix: bool = True
    score_chunk: int | None = None
    choice: int = 0
    group: JobGroup = field(default_factory=JobGroup)
    submitted: float = field(default_factory=monotonic, init=False)
    is_cancelled: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.reuse_prefix = self.reuse_prefix and self.prompt_logprobs is None and self.score_chunk is None

    def tell(self, event: Event) -> None:
        """Hand an event to whoever waits; nobody may be left."""
        try:
            self.deliver(event)
        except RuntimeError:  # the client's event loop has gone
            self.cancel()

    def cancel(self) -> None:
        """Stop before the next token. Safe from any thread, at any time."""
        self.is_cancelled = True
