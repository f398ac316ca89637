"""What is said of a run when it is over: the only place that knows where each figure comes from."""

from __future__ import annotations

from time import monotonic
from typing import Any

from edge_runtime.backends import passed_over
from edge_runtime.engine.job import Outcome
from edge_runtime.engine.parts import Parts
from edge_runtime.engine.sequence import Sequence
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.policy.base import Policy
from edge_runtime.telemetry.power.report import energy_json
from edge_runtime.telemetry.process import peak_rss_bytes
from edge_runtime.telemetry.report import RunReport, Timings


def make_report(
    parts: Parts,
    *,
    timings: Timings,
    before: ExpertCounters,
    text: str = "",
    token_ids: list[int] | None = None,
    finish_reason: str = "length",
    energy: dict[str, Any] | None = None,
    speculation: dict[str, Any] | None = None,
) -> RunReport:
    """Return the contract's report of what ran since `before` was taken.

    Args:
        parts: the engine's parts.
        timings: what was timed.
        before: snapshot of the expert counters at the start.
        text: generated text.
        token_ids: generated tokens.
        finish_reason: 'stop' or 'length'.
        energy: what was used; None if it was not measured.
        speculation: what became of drafts; None where nothing is drafted.
    """
    spec = parts.bundle.manifest.model
    return RunReport(
        text=text,
        token_ids=list(token_ids or []),
        finish_reason=finish_reason,
        model={
            "family": spec.family,
            "num_layers": spec.num_layers,
            "num_experts": spec.num_experts,
            "top_k": spec.top_k,
        },
        policy=describe_policy(parts.active.policy),
        backend=parts.backend.name,
        timings=timings.to_json(),
        experts=_experts(parts, before, timings.prompt_n + len(timings.token_ms)),
        memory={
            "budget_bytes": parts.plan.budget_bytes,
            "planned_bytes": parts.plan.planned_bytes,
            "peak_rss_bytes": peak_rss_bytes(),
            "arena_bytes": parts.cache.nbytes,
            "trunk_bytes": parts.trunk.weight_bytes,
            "kv_bytes": parts.kv.nbytes,
            "elastic": None if parts.elastic is None else parts.elastic.to_json(),
            "preload": None if parts.preload is None else parts.preload.to_json(),
        },
        energy=energy,
        passed_over=passed_over(parts.backend.name),
        choices=dict(parts.backend.choices),
        speculation=speculation,
    )


def make_outcome(
    parts: Parts, sequence: Sequence, reason: str, *, tokens_run: int, limit: str | None = None
) -> Outcome:
    """Return what became of a job.

    Args:
        parts: the engine's parts.
        sequence: the job, which has run as far as it will.
        reason: why it ended.
        tokens_run: tokens of all sequences that the scheduler has run.
        limit: what cut it short besides its own max_tokens: 'time' or None.
    """
    return Outcome(
        finish_reason=reason,
        limit=limit,
        timings=sequence.timings,
        experts=_experts(parts, sequence.request.counters, tokens_run - sequence.request.tokens_run),
        policy=describe_policy(sequence.policy or parts.active.policy),
        concurrent=sequence.concurrent,
        queue_ms=round(1000 * (sequence.started - sequence.job.submitted), 3),
        energy=energy_of(parts, sequence),
        speculation=speculation_of(parts, sequence),
    )


def speculation_of(parts: Parts, sequence: Sequence) -> dict[str, Any] | None:
    """Return what became of a job's drafts; None where the engine drafts nothing."""
    if parts.speculation is None:
        return None
    return parts.speculation.to_json(sequence.draft_counts, sequence.policy or parts.active.policy)


def energy_of(parts: Parts, sequence: Sequence) -> dict[str, Any] | None:
    """Return what the machine used from the start of a job's request to its end; None if that was not measured.

    Per token only of a job that ran alone: what others used beside it cannot be told from its own.
    """
    end = monotonic() if sequence.ended is None else sequence.ended
    tokens = len(sequence.timings.token_ms) if sequence.concurrent == 1 else None
    return energy_json(parts.power, int(sequence.request.at * 1e9), int(end * 1e9), tokens)


def describe_policy(policy: Policy) -> dict[str, Any]:
    """Return the contract's `policy` object."""
    return {"name": policy.name, "params": policy.params}


def _experts(parts: Parts, before: ExpertCounters, num_tokens: int) -> dict[str, Any]:
    """What happened to experts since `before`, in the contract's words, while so many tokens ran."""
    experts = parts.cache.counters.since(before).to_json(num_tokens)
    prefetcher = parts.decoder.prefetcher
    if prefetcher is not None and prefetcher.governor is not None:
        saved = prefetcher.governor.saved_ns_per_token
        experts["prefetch"] |= {
            "is_on": prefetcher.is_on,
            "switches": prefetcher.governor.switches,
            "saved_ms_per_token": None if saved is None else round(saved / 1e6, 4),
        }
    return experts
