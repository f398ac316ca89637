"""The benchmark's JSON: the output contract's object over all requests, and under `bench` the samples it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from edge_runtime.lab.bench.measured import Request, Stage, total_experts, total_phases
from edge_runtime.lab.bench.power_log import PowerLog
from edge_runtime.lab.bench.raw import request_json
from edge_runtime.lab.bench.session import BenchSession
from edge_runtime.lab.bench.settings import BenchSettings
from edge_runtime.lab.bench.steadiness import cache_proof, hit_rate, sentinel_json, warnings
from edge_runtime.telemetry.drive_probe import DriveCeiling
from edge_runtime.telemetry.samples import percentiles, rate, rounded, shares, summary

FORMAT_VERSION = 2


@dataclasses.dataclass
class RunConditions:
    """What was true around the requests.

    Attributes:
        hardware: see `telemetry.hardware.describe_hardware`.
        versions: of this package and what computes.
        prompts: where prompts come from, and how many are distinct.
        measured_at: when it began, UTC, ISO 8601.
        command: what was typed.
        probes: drive ceilings before and after the requests; empty if not probed.
        probe_error: why the drive was not probed; None if it was.
        power: what a meter said while the requests ran.
    """

    hardware: dict[str, Any]
    versions: dict[str, str]
    prompts: dict[str, Any]
    measured_at: str = ""
    command: str = ""
    probes: list[DriveCeiling] = dataclasses.field(default_factory=list)
    probe_error: str | None = None
    power: PowerLog = dataclasses.field(default_factory=PowerLog)


def result_json(
    session: BenchSession, settings: BenchSettings, around: RunConditions, *, is_complete: bool = True
) -> dict[str, Any]:
    """Return the contract's object with `bench` added.

    `timings` holds medians over requests, its `itl_ms` percentiles over all gaps of all requests; `experts` are totals.
    """
    requests, power = session.requests, around.power
    last = requests[-1].report.to_json()
    prefill, decode = [r.prefill for r in requests], [r.decode for r in requests]
    tokens = sum(stage.tokens for stage in prefill + decode)
    stats = _stats(requests, settings)
    bench = {
        "format_version": FORMAT_VERSION,
        "is_complete": is_complete,
        "measured_at": around.measured_at,
        "command": around.command,
        "settings": settings.to_json(),
        "prompts": around.prompts,
        "engine": session.facts,
        "cache_state": cache_state(session.facts, settings),
        "cache_proof": cache_proof(requests, settings, session.facts),
        "stats": stats,
        "prefill": _stage(prefill, around, power.energy([(r.start_ns, r.first_ns) for r in requests], _sum(prefill))),
        "decode": _stage(decode, around, power.energy([(r.first_ns, r.end_ns) for r in requests], _sum(decode))),
        "sentinel": sentinel_json(session.sentinels),
        "drive": drive_json(around),
        "hardware": around.hardware,
        "versions": around.versions,
        "requests": [request_json(r, power) for r in requests],
        "gap_ms_samples": [[rounded(gap) for gap in r.gap_ms] for r in requests],
        "sentinels": [request_json(r, power) for r in session.sentinels],
        "power": power.to_json(),
    }
    return last | {
        "timings": _timings(requests, stats),
        "experts": total_experts(prefill + decode).to_json(tokens),
        "memory": last["memory"] | {"peak_rss_bytes": max(r.report.memory["peak_rss_bytes"] for r in requests)},
        "energy": power.contract_energy([(r.start_ns, r.end_ns) for r in requests], _sum(decode) + len(requests)),
        "bench": bench | {"warnings": warnings(bench)},
    }


def _sum(stages: Sequence[Stage]) -> int:
    return sum(stage.tokens for stage in stages)


def _stats(requests: Sequence[Request], settings: BenchSettings) -> dict[str, Any]:
    """Median, p10, p90, n and samples of what is one number a request; the gaps between tokens pooled."""
    return {
        "load_ms": summary(r.load_ms for r in (requests if settings.cache == "cold" else requests[:1])),
        "ttft_ms": summary(r.ttft_ms for r in requests),
        "prefill_tok_s": summary(rate(r.prefill.tokens, 1e6 * r.prompt_ms) for r in requests),
        "decode_tok_s": summary(rate(r.decode.tokens, r.decode.wall_ns) for r in requests),
        "itl_ms": gap_percentiles(requests),
        "bytes_per_decoded_token": summary(r.decode.experts.bytes_read / r.decode.tokens for r in requests),
        "hit_rate": summary(hit_rate(r) for r in requests),
    }


def gap_percentiles(requests: Sequence[Request]) -> dict[str, Any]:
    """Return p50, p90, p99 and n of the gaps between tokens of all requests."""
    gaps = [gap for r in requests for gap in r.gap_ms]
    p50, p90, p99 = percentiles(gaps, (50, 90, 99))
    return {"p50": p50, "p90": p90, "p99": p99, "n": len(gaps)}


def _timings(requests: Sequence[Request], stats: dict[str, Any]) -> dict[str, Any]:
    one = requests[-1]
    itl = stats["itl_ms"]
    return {
        "load_ms": stats["load_ms"]["median"],
        "prompt_n": one.prefill.tokens,
        "cached_n": 0,
        "prompt_ms": summary(r.prompt_ms for r in requests)["median"],
        "prompt_per_second": stats["prefill_tok_s"]["median"],
        "predicted_n": one.decode.tokens + 1,
        "predicted_ms": summary(r.decode.wall_ns / 1e6 for r in requests)["median"],
        "predicted_per_second": stats["decode_tok_s"]["median"],
        "ttft_ms": stats["ttft_ms"]["median"],
        "itl_ms": {name: itl[name] for name in ("p50", "p90", "p99")},
    }


def _stage(stages: list[Stage], around: RunConditions, energy: dict[str, Any] | None) -> dict[str, Any]:
    """Totals of one stage over all requests."""
    phases, tokens = total_phases(stages), _sum(stages)
    read = [stage.drive_bytes for stage in stages if stage.drive_bytes is not None]
    experts = total_experts(stages).to_json(tokens)
    ceiling = max((probe.gbps for probe in around.probes), default=None)
    achieved = experts["read_gbps"]
    return {
        "tokens": tokens,
        "ms": round(sum(stage.wall_ns for stage in stages) / 1e6, 3),
        "phase_ms_per_token": {name: round(ns / 1e6 / tokens, 4) for name, ns in phases.items()},
        "phase_percent": shares(phases),
        "phases_over_wall_percent": _excess(phases, sum(stage.wall_ns for stage in stages)),
        "experts": experts,
        "share_of_drive": round(achieved / ceiling, 4) if achieved and ceiling else None,
        "drive_bytes": sum(read) if len(read) == len(stages) else None,
        "energy": energy,
    }


def _excess(phases: Mapping[str, int], wall_ns: int) -> float:
    """Return by how many percent the phases together are longer than the wall time; phases that overlap show here."""
    return round(100 * (sum(phases.values()) / wall_ns - 1), 3)


def drive_json(around: RunConditions) -> dict[str, Any]:
    """Return the ceiling (the better of the probes), the probes, or why there are none."""
    probes = [probe.to_json() for probe in around.probes]
    return {
        "ceiling_gbps": max((probe.gbps for probe in around.probes), default=None),
        "probes": probes,
        "not_measured_because": around.probe_error,
    }


def cache_state(facts: dict[str, Any], settings: BenchSettings) -> str:
    """Say in words what the expert cache and the page cache held when a request began."""
    mode = f"reads {facts['read_mode']} with {facts['read_method']}"
    if settings.cache == "cold":
        return f"cold: expert cache empty, bundle's files dropped from the page cache before each request; {mode}"
    fits = "all experts fit" if facts["is_fully_resident"] else f"{facts['num_slots']} expert slots"
    return f"warm: after {settings.warmup} unmeasured requests and those before it ({fits}); {mode}"
