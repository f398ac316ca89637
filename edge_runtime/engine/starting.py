"""What runs a job: which kind of sequence, with whose sampling, stopping and seed."""

from __future__ import annotations

from dataclasses import replace

from edge_runtime.engine.continuation import Continuation
from edge_runtime.engine.job import Job, Start
from edge_runtime.engine.parts import Parts
from edge_runtime.engine.sampler import seed_of_choice
from edge_runtime.engine.scored_prompt import ScoredGeneration, Scoring
from edge_runtime.engine.sequence import Generation, Sequence
from edge_runtime.engine.sessions import Session
from edge_runtime.policy.base import Policy


def sequence_of(
    job: Job, session: Session, parts: Parts, *, cached: int, policy: Policy | None, request: Start
) -> Sequence:  # fmt: skip
    """Return the sequence that runs a job.

    Args:
        job: what is wanted.
        session: where it runs; holds the first `cached` tokens of the prompt.
        parts: the engine's.
        cached: tokens of the prompt that need not be run.
        policy: of this request, None for the engine's.
        request: start of the request it belongs to.

    Raises:
        RequestError: it has a bias for a token that the model does not have.
    """
    if job.score_chunk is not None:
        return Scoring(job, session, cached=cached, policy=policy, request=request)
    job.params.require_vocabulary(parts.spec.vocab_size)
    seed = parts.config.seed if job.params.seed is None else job.params.seed
    params = replace(job.params, seed=seed_of_choice(seed, job.choice))
    eos = parts.tokenizer.stop_tokens(parts.spec)
    continuation = Continuation(
        parts.tokenizer, params, job.prompt_ids, eos=eos, context=session.kv.context, constraint=job.constraint
    )
    drafting = None
    if parts.speculation is not None:  # a reload may change the policy in force
        drafting = parts.speculation.drafting(job.prompt_ids, lambda: policy or parts.active.policy)
    if job.prompt_logprobs is None:
        return Generation(job, session, continuation, cached=cached, policy=policy, request=request, drafting=drafting)
    chunk = parts.logits_chunk
    return ScoredGeneration(
        job, session, continuation, chunk=chunk, policy=policy, request=request, drafting=drafting
    )  # fmt: skip
