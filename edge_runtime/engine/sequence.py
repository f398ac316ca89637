"""A job while it runs: which tokens come next, what a token means, and what was measured."""

from __future__ import annotations

from time import monotonic, perf_counter

import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.decoder import SequenceStep
from edge_runtime.engine.generation import Continuation
from edge_runtime.engine.job import Job, Outcome, TokenEvent, TokenLogprob
from edge_runtime.engine.sessions import Session
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.policy.base import Policy
from edge_runtime.telemetry.report import Timings


class Sequence:
    """A running job in its session.

    Args:
        job: the request.
        session: where it runs; holds the first `cached` tokens of the prompt.
        continuation: draws its tokens.
        cached: tokens of the prompt that need not be run.
        policy: of this request, None for the engine's.
        counters: snapshot of the expert counters at its start.
    """

    def __init__(
        self,
        job: Job,
        session: Session,
        continuation: Continuation,
        *,
        cached: int,
        policy: Policy | None,
        counters: ExpertCounters,
    ) -> None:
        self.job, self.session, self.policy = job, session, policy
        self._continuation = continuation
        self._counters_before = counters
        self.started = monotonic()
        self.first_token_at: float | None = None
        self.timings = Timings(prompt_n=len(job.prompt_ids) - cached, cached_n=cached)
        self.concurrent = 1
        self.tokens_around = 0
        self._mark = perf_counter()

    @property
    def is_prefilling(self) -> bool:
        """Whether part of the prompt has not been run."""
        return len(self.session.tokens) < len(self.job.prompt_ids)

    @property
    def is_out_of_time(self) -> bool:
        """Whether its time limit has passed."""
        limit = self.job.time_limit_s
        return limit is not None and monotonic() - self.started > limit

    @property
    def text(self) -> str:
        """Text generated."""
        return self._continuation.text

    def next_step(self, max_chunk: int) -> SequenceStep:
        """Return what to run next: a chunk of the prompt, or the last token."""
        done, prompt = len(self.session.tokens), self.job.prompt_ids
        if done >= len(prompt):
            ids = np.array([self._continuation.token_ids[-1]], np.int32)
            return SequenceStep(ids, self.session.kv, slice(0, 1), self.policy)
        ids = prompt[done : done + max_chunk]
        rows = slice(len(ids) - 1, len(ids)) if done + len(ids) == len(prompt) else slice(0)
        return SequenceStep(ids, self.session.kv, rows, self.policy)

    def take(self, step: SequenceStep, logits: NDArray[np.float32]) -> TokenEvent | None:
        """Note that a step has run; draw a token if its logits are there.

        Raises:
            RequestError: no token can be drawn.
        """
        self.session.tokens.extend(step.token_ids.tolist())
        if not len(logits):
            return None
        if self.first_token_at is None:
            self.timings.prompt_ms = self._lap()
            self.first_token_at = monotonic()
        chunk = self._continuation.next(logits[0])
        self.timings.token_ms.append(self._lap())
        if self.job.logprobs is None:
            return TokenEvent(chunk, None, ())
        return TokenEvent(chunk, *_logprobs(logits[0], chunk.token_id, self.job.logprobs))

    def outcome(self, reason: str, counters: ExpertCounters, policy: Policy, *, limit: str | None = None) -> Outcome:
        """Return what became of it."""
        used = self.policy or policy
        return Outcome(
            finish_reason=reason,
            limit=limit,
            timings=self.timings,
            experts=counters.since(self._counters_before).to_json(self.tokens_around),
            policy={"name": used.name, "params": used.params},
            concurrent=self.concurrent,
            queue_ms=round(1000 * (self.started - self.job.submitted), 3),
        )

    def _lap(self) -> float:
        """Milliseconds since the last call."""
        now = perf_counter()
        lap, self._mark = 1000 * (now - self._mark), now
        return lap


def _logprobs(logits: NDArray[np.float32], token_id: int, top: int) -> tuple[float, tuple[TokenLogprob, ...]]:
    scores = logits.astype(np.float64)
    scores -= scores.max()
    scores -= np.log(np.exp(scores).sum())
    best = np.argpartition(-scores, min(top, len(scores) - 1))[:top]
    best = best[np.argsort(-scores[best], kind="stable")]
    return float(scores[token_id]), tuple(TokenLogprob(int(i), float(scores[i])) for i in best)
