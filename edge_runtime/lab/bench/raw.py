"""Requests of a benchmark as plain data: what was measured of each, from which every figure of the report follows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.lab.bench.measured import Before, Request, Stage
from edge_runtime.lab.bench.page_cache import PageCache
from edge_runtime.lab.bench.power_log import PowerLog
from edge_runtime.telemetry.samples import rounded


def request_json(request: Request, power: PowerLog) -> dict[str, Any]:
    """Return everything measured of a request but its gaps; times in ms since the power log began."""
    start, first, end = request.start_ns, request.first_ns, request.end_ns
    return {
        "number": request.number,
        "load_ms": rounded(request.load_ms),
        "ttft_ms": rounded(request.ttft_ms),
        "prompt_ms": rounded(request.prompt_ms),
        "start_ms": power.since(start),
        "first_token_ms": power.since(first),
        "end_ms": power.since(end),
        "peak_rss_bytes": request.report.memory["peak_rss_bytes"],
        "prefill": stage_json(request.prefill),
        "decode": stage_json(request.decode),
        "energy": {
            "prefill": power.energy([(start, first)], request.prefill.tokens),
            "decode": power.energy([(first, end)], request.decode.tokens),
            "request": power.energy([(start, end)], request.decode.tokens + 1),
        },
        "residency": [[power.since(at), _by_tier(tiers)] for at, tiers in request.residency],
        **_before_json(request.before),
        "conditions_after": None if request.after is None else request.after.to_json(),
    }


def stage_json(stage: Stage) -> dict[str, Any]:
    """Return a stage's own numbers."""
    return {
        "wall_ns": stage.wall_ns,
        "tokens": stage.tokens,
        "phases_ns": dict(stage.phases_ns),
        "counters": counters_json(stage.experts),
        "drive_bytes": stage.drive_bytes,
    }


def counters_json(counters: ExpertCounters) -> dict[str, Any]:
    """Return the counters as they are, nanoseconds included."""
    return {name: _by_tier(value) if isinstance(value, dict) else value for name, value in asdict(counters).items()}


def _by_tier(values: dict[int, int]) -> dict[str, int]:
    return {str(tier): count for tier, count in sorted(values.items())}


def _before_json(before: Before) -> dict[str, Any]:
    return {
        "page_cache": page_cache_json(before.page_cache),
        "thermal_gate": None if before.gate is None else before.gate.to_json(),
        "conditions_before": None if before.conditions is None else before.conditions.to_json(),
    }


def page_cache_json(found: PageCache | None) -> dict[str, Any] | None:
    """Return how much of the bundle the page cache held; None where nobody looked."""
    return None if found is None else found._asdict()
