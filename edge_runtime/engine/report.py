"""Builds the report of one run from an engine's parts: the only place that knows where each figure comes from."""

from __future__ import annotations

from edge_runtime.engine.assembly import Parts
from edge_runtime.experts.counters import ExpertCounters
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
) -> RunReport:
    """Return the contract's report of what ran since `before` was taken.

    Args:
        parts: the engine's parts.
        timings: what was timed.
        before: snapshot of the expert counters at the start.
        text: generated text.
        token_ids: generated tokens.
        finish_reason: 'stop' or 'length'.
    """
    spec = parts.bundle.manifest.model
    tokens = timings.prompt_n + len(timings.token_ms)
    experts = parts.cache.counters.since(before).to_json(tokens)
    prefetcher = parts.decoder.prefetcher
    if prefetcher is not None and prefetcher.governor is not None:
        saved = prefetcher.governor.saved_ns_per_token
        experts["prefetch"] |= {
            "is_on": prefetcher.is_on,
            "switches": prefetcher.governor.switches,
            "saved_ms_per_token": None if saved is None else round(saved / 1e6, 4),
        }
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
        policy={"name": parts.policy.name, "params": parts.policy.params},
        backend=parts.backend,
        timings=timings.to_json(),
        experts=experts,
        memory={
            "budget_bytes": parts.plan.budget_bytes,
            "planned_bytes": parts.plan.planned_bytes,
            "peak_rss_bytes": peak_rss_bytes(),
            "arena_bytes": parts.cache.nbytes,
            "trunk_bytes": parts.trunk.weight_bytes,
            "kv_bytes": parts.kv.nbytes,
        },
    )
