"""The `/v1/stats` object: what the status page shows and scripts read. Schema version 1, in docs/metrics.md."""

from __future__ import annotations

from dataclasses import asdict
from time import monotonic
from typing import Any

from edge_runtime.service.ops.figures import EngineState, Figures, Histogram, ServiceInfo, ServiceStats
from edge_runtime.service.ops.health import Heartbeat, Readiness
from edge_runtime.telemetry.power.report import live_json
from edge_runtime.telemetry.process import peak_rss_bytes, rss_bytes

SCHEMA = 1
_QUANTILES = (0.5, 0.9, 0.99)


def make_stats_report(
    stats: ServiceStats, readiness: Readiness, heartbeat: Heartbeat, info: ServiceInfo
) -> dict[str, Any]:
    """Return plain data; what nothing has measured yet is None, never 0.

    Args:
        stats: the figures.
        readiness: the phase.
        heartbeat: of the serving loop.
        info: what does not change.
    """
    figures, engine = stats.read(), stats.engine
    return {
        "schema": SCHEMA,
        "phase": readiness.phase.value,
        "reason": readiness.reason,
        "uptime_s": round(monotonic() - stats.started, 3),
        "heartbeat_age_s": round(heartbeat.age_s, 3),
        "model": asdict(info),
        "policy": dict(engine.policy) if engine else None,
        "requests": _requests(figures),
        "tokens": _tokens(figures),
        "latency_s": _latency(figures),
        "experts": engine.experts.to_json(_tokens_run(figures)) if engine else None,
        "residency": _residency(engine) if engine else None,
        "memory": _memory(engine),
        "energy": live_json(stats.power),
        "conditions": stats.conditions().to_json() if stats.conditions else None,
    }


def quantile(histogram: Histogram, share: float) -> float | None:
    """Estimate a quantile by straight lines within buckets, as Prometheus does; None without observations."""
    total = histogram.count
    if not total:
        return None
    rank, below, lower = share * total, 0, 0.0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        if count and below + count >= rank:
            return lower + (bound - lower) * (rank - below) / count
        below, lower = below + count, bound
    return histogram.bounds[-1]


def _requests(figures: Figures) -> dict[str, Any]:
    return {
        "running": figures.running,
        "together": figures.decode_width,
        "waiting": figures.waiting,
        "finished": dict(figures.finished),
        "rejected": dict(figures.rejected),
    }


def _tokens_run(figures: Figures) -> int:
    """Tokens that went through the model: all but those found in the KV cache."""
    return figures.prompt_tokens - figures.cached_tokens + figures.generation_tokens


def _tokens(figures: Figures) -> dict[str, int]:
    return {
        "prompt": figures.prompt_tokens,
        "cached": figures.cached_tokens,
        "generated": figures.generation_tokens,
        "drafted": figures.draft_tokens,
        "accepted": figures.accepted_tokens,
        "steps": figures.steps,
    }


def _latency(figures: Figures) -> dict[str, Any]:
    names = {
        "time_to_first_token": figures.time_to_first_token,
        "inter_token": figures.inter_token_latency,
        "e2e": figures.e2e_latency,
        "queue": figures.queue_time,
        "prefill": figures.prefill_time,
        "decode": figures.decode_time,
    }
    return {name: _summary(histogram) for name, histogram in names.items()}


def _summary(histogram: Histogram) -> dict[str, Any]:
    count = histogram.count
    quantiles = {f"p{100 * share:g}": quantile(histogram, share) for share in _QUANTILES}
    return {"count": count, "mean": histogram.sum / count if count else None, **quantiles}


def _residency(engine: EngineState) -> list[dict[str, Any]]:
    return [
        {"layer": layer, "tiers": {str(tier): count for tier, count in sorted(tiers.items())}}
        for layer, tiers in sorted(engine.residency.items())
    ]


def _memory(engine: EngineState | None) -> dict[str, Any]:
    return {
        "rss_bytes": rss_bytes(),
        "peak_rss_bytes": peak_rss_bytes(),
        "budget_bytes": engine.budget_bytes if engine else None,
        "planned_bytes": engine.planned_bytes if engine else None,
        "elastic": engine.elastic if engine else None,
        "preload": engine.preload if engine else None,
        "cache_used_bytes": engine.cache_used_bytes if engine else None,
        "cache_bytes": engine.cache_bytes if engine else None,
        "kv_used_tokens": engine.kv_used_tokens if engine else None,
        "kv_tokens": engine.kv_tokens if engine else None,
    }
