"""Jobs that want to know what the model says of their prompt: log probabilities of its tokens, or all logits."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.base.arrays import F32, I32
from edge_runtime.engine.continuation import Continuation
from edge_runtime.engine.job import Job, LogitsEvent, PromptEvent, Start
from edge_runtime.engine.pass_parts import SequenceStep
from edge_runtime.engine.sequence import Generation, Sequence, StepEvent, likeliest
from edge_runtime.engine.sessions import Session
from edge_runtime.policy.base import Policy

if TYPE_CHECKING:
    from edge_runtime.engine.speculation.drafting import Drafting


class Scoring(Sequence):
    """Runs a prompt for the logits after each of its tokens.

    Its chunks are cut otherwise than those of a prompt to go on from, which may move last bits. So the session notes
    none of its tokens: no later prompt finds a prefix here.
    """

    def next_step(self, max_chunk: int, *, is_alone: bool = False) -> SequenceStep:
        """Return a chunk of the text, all of its logits wanted."""
        ids = self.job.prompt_ids[self._done : self._done + min(self.job.score_chunk or max_chunk, max_chunk)]
        return SequenceStep(ids, self.session.kv, slice(0, len(ids)), self.policy)

    def take(self, step: SequenceStep, logits: F32) -> Seq[StepEvent]:
        """Return the chunk's logits. See `Sequence.take`."""
        start = self._done
        self._note_run(start + len(step.token_ids))
        self.finish_reason = None if self.is_prefilling else "length"
        return (LogitsEvent(start, logits),)


class ScoredGeneration(Generation):
    """Scores the tokens of its prompt on the way. As in `Scoring`, the session notes none of them.

    The prompt's last token runs alone: its logits are those of the first token generated.

    Args:
        chunk: tokens a pass, so that the logits of one stay small.
    """

    def __init__(
        self,
        job: Job,
        session: Session,
        continuation: Continuation,
        *,
        chunk: int,
        policy: Policy | None,
        request: Start,
        drafting: Drafting | None = None,
    ) -> None:
        super().__init__(job, session, continuation, cached=0, policy=policy, request=request, drafting=drafting)
        self._chunk = chunk

    def next_step(self, max_chunk: int, *, is_alone: bool = False) -> SequenceStep:
        """Return a chunk of the prompt, all of its logits wanted, or the last token, with drafts or not."""
        left = len(self.job.prompt_ids) - self._done
        if left <= 1:
            return super().next_step(max_chunk if left < 1 else 1, is_alone=is_alone)
        end = self._done + min(self._chunk, max_chunk, left - 1)
        ids = self.job.prompt_ids[self._done : end]
        return SequenceStep(ids, self.session.kv, slice(0, len(ids)), self.policy)

    def take(self, step: SequenceStep, logits: F32) -> Seq[StepEvent]:
        """Score what follows each token of a chunk, or draw a token. See `Sequence.take`."""
        start = self._done + 1
        if start >= len(self.job.prompt_ids):
            return super().take(step, logits)
        self._note_run(self._done + len(step.token_ids))
        top = self.job.prompt_logprobs or 0
        targets = self.job.prompt_ids[start : start + len(logits)].tolist()
        scored = [likeliest(row, token, top) for row, token in zip(logits, targets, strict=True)]
        return (PromptEvent(start, *(np.array(column) for column in zip(*scored, strict=True))),)

    def _note(self, token_ids: I32) -> None:
        """No later prompt may go on from here."""
