"""A job while it runs: which tokens come next, what their logits mean, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.base.arrays import F32, F64, I32
from edge_runtime.engine.continuation import Continuation, TextDelta
from edge_runtime.engine.job import Job, LogitsEvent, PromptEvent, Start, TokenEvent, TokenLogprob
from edge_runtime.engine.pass_parts import SequenceStep
from edge_runtime.engine.sessions import Session
from edge_runtime.engine.speculation.counts import DraftCounts
from edge_runtime.policy.base import Policy
from edge_runtime.telemetry.report import Timings

if TYPE_CHECKING:
    from edge_runtime.engine.speculation.drafting import Drafting


StepEvent = TokenEvent | PromptEvent | LogitsEvent | Exception
"""What comes of a step."""


class Sequence:
    """A running job in its session.

    Args:
        job: the request.
        session: where it runs; holds the first `cached` tokens of the prompt.
        cached: tokens of the prompt that need not be run.
        policy: of this request, None for the engine's.
        request: start of the request it belongs to.

    Attributes:
        started: when it started, monotonic seconds.
        first_token_at: when its first token came, None before.
        ended: when it was over, None before.
        timings: of the prompt and of every token.
        concurrent: most sequences that ran together with it, itself included.
        finish_reason: None until it has ended by itself: 'stop' or 'length'.
        is_prefilling: whether part of the prompt has not been run.
    """

    def __init__(self, job: Job, session: Session, *, cached: int, policy: Policy | None, request: Start) -> None:
        self.job, self.session, self.policy, self.request = job, session, policy, request
        self.started = monotonic()
        self.first_token_at: float | None = None
        self.ended: float | None = None
        self.timings = Timings(prompt_n=len(job.prompt_ids) - cached, cached_n=cached)
        self.concurrent = 1
        self.finish_reason: str | None = None
        self._note_run(cached)
        self._mark = perf_counter()

    @property
    def is_out_of_time(self) -> bool:
        """Whether the time limit of its request has passed."""
        limit = self.job.time_limit_s
        return limit is not None and monotonic() - self.request.at > limit

    @property
    def is_untouched(self) -> bool:
        """Whether nothing of its prompt has been run yet."""
        return self.is_prefilling and self._done == self.timings.cached_n

    def skip(self, tokens: int) -> None:
        """Note that so many tokens of its prompt, from the first on, need not be run: its session holds them."""
        self.timings.cached_n = tokens
        self._note_run(tokens)
        self.timings.prompt_n = len(self.job.prompt_ids) - tokens

    @property
    def text(self) -> str:
        """Text generated so far."""
        return ""

    @property
    def token_ids(self) -> list[int]:
        """Tokens generated so far."""
        return []

    @property
    def draft_counts(self) -> DraftCounts:
        """What became of drafts."""
        return DraftCounts()

    def next_step(self, max_chunk: int, *, is_alone: bool = False) -> SequenceStep:
        """Return what to run next.

        Args:
            max_chunk: most tokens of it.
            is_alone: no other job runs: it may have drafts.
        """
        raise NotImplementedError

    def take(self, step: SequenceStep, logits: F32) -> Seq[StepEvent]:
        """Note that a step has run, with the logits float32 [rows, V] it asked for; return what came of it, in order.

        Of drafts there are logits only as far as they ran. An exception among the events ends the job.

        Raises:
            RequestError: no token can be drawn.
        """
        raise NotImplementedError

    def resume(self) -> None:
        """Whoever drives the scheduler was away: that time belongs to no token."""
        self._mark = perf_counter()

    def _note_run(self, tokens: int) -> None:
        """Note that the first `tokens` of the prompt have been run."""
        self._done, self.is_prefilling = tokens, tokens < len(self.job.prompt_ids)

    def _lap_ms(self) -> float:
        """Milliseconds since the last call."""
        now = perf_counter()
        lap, self._mark = 1000 * (now - self._mark), now
        return lap


class Generation(Sequence):
    """Runs a prompt, then a token a step until something ends it, or several that were drafted.

    Arguments as for `Sequence`.

    Args:
        continuation: draws its tokens.
        drafting: drafts tokens; None: nothing does.
    """

    def __init__(
        self,
        job: Job,
        session: Session,
        continuation: Continuation,
        *,
        cached: int,
        policy: Policy | None,
        request: Start,
        drafting: Drafting | None = None,
    ) -> None:
        super().__init__(job, session, cached=cached, policy=policy, request=request)
        self._continuation, self._drafting = continuation, drafting

    @property
    def text(self) -> str:
        """Text generated so far."""
        return self._continuation.text

    @property
    def token_ids(self) -> list[int]:
        """Tokens generated so far."""
        return self._continuation.token_ids

    @property
    def draft_counts(self) -> DraftCounts:
        """What became of drafts."""
        return super().draft_counts if self._drafting is None else self._drafting.counts

    def next_step(self, max_chunk: int, *, is_alone: bool = False) -> SequenceStep:
        """Return a chunk of the prompt, or the last token, with drafts of the next ones behind it if it is alone."""
        kv = self.session.kv
        if not self.is_prefilling:
            drafts = self._drafts(min(max_chunk, kv.context - kv.length) - 1) if is_alone else []
            ids = np.array([self._continuation.token_ids[-1], *drafts], np.int32)
            return SequenceStep(ids, kv, slice(0, len(ids)), self.policy, len(drafts))
        ids = self.job.prompt_ids[self._done : self._done + max_chunk]
        is_last = self._done + len(ids) == len(self.job.prompt_ids)
        rows = slice(len(ids) - 1, len(ids)) if is_last else slice(0)
        return SequenceStep(ids, kv, rows, self.policy)

    def _drafts(self, room: int) -> list[int]:
        if self._drafting is None:
            return []
        return self._drafting.propose(self.token_ids, min(room, self._continuation.left - 1))

    def take(self, step: SequenceStep, logits: F32) -> Seq[StepEvent]:
        """Draw a token from each of the step's logits while they follow what was drawn. See `Sequence.take`."""
        if self.is_prefilling:
            self._note_run(self._done + len(step.token_ids))
        if not len(logits):
            self._note(step.token_ids)
            return ()
        if self.first_token_at is None:
            self.timings.prompt_ms = self._lap_ms()
            self.first_token_at = monotonic()
        deltas, err = self._draw(step, logits)
        wrong = len(logits) - len(deltas)  # drafts that ran, behind the last token that stands
        if wrong:
            self.session.kv.truncate(self.session.kv.length - wrong)
        self._note(step.token_ids[: len(step.token_ids) - step.drafts + len(deltas) - 1])
        lap_ms = self._lap_ms()
        self.timings.token_ms += [lap_ms / len(deltas)] * len(deltas)
        if self._drafting is not None:
            self._drafting.note(step.drafts, len(logits) - 1, [delta.token_id for delta in deltas], lap_ms / 1000)
        events = [self._event(delta, row) for delta, row in zip(deltas, logits, strict=False)]
        return events if err is None else [*events, err]

    def _draw(self, step: SequenceStep, logits: F32) -> tuple[list[TextDelta], Exception | None]:
        """Draw tokens as long as each is the draft that the next logits come behind; return what stopped it, too."""
        first = len(step.token_ids) - step.drafts
        deltas = [self._continuation.next(logits[0])]
        for row, draft in zip(logits[1:], step.token_ids[first:].tolist(), strict=False):
            if deltas[-1].finish_reason is not None or deltas[-1].token_id != draft:
                break
            try:
                deltas.append(self._continuation.next(row))
            except Exception as err:  # noqa: BLE001 - the tokens before it were drawn, and count
                return deltas, err
        self.finish_reason = deltas[-1].finish_reason
        return deltas, None

    def _event(self, delta: TextDelta, logits: F32) -> TokenEvent:
        if self.job.logprobs is None:
            return TokenEvent(delta, None, ())
        logprob, ids, values = likeliest(logits, delta.token_id, self.job.logprobs)
        return TokenEvent(delta, logprob, tuple(map(TokenLogprob, ids.tolist(), values.tolist())))

    def _note(self, token_ids: I32) -> None:
        """Let later prompts go on from tokens that have run."""
        self.session.extend(token_ids)


def likeliest(
    logits: F32, token_id: int, top: int
) -> tuple[float, I32, F64]:  # fmt: skip
    """Return the log probability of a token, the likeliest tokens in its place int32 [top], best first, and theirs."""
    scores = logits.astype(np.float64)
    scores -= scores.max()
    scores -= np.log(np.exp(scores).sum())
    best = np.argpartition(-scores, min(top, len(scores) - 1))[:top]
    best = best[np.argsort(-scores[best], kind="stable")]
    return float(scores[token_id]), np.asarray(best, np.int32), scores[best]
