"""Whether the figures of a benchmark can be believed: sentinel, cache state, prompts, temperature. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_runtime.lab.bench.measured import Request
from edge_runtime.lab.bench.page_cache import COLD_SHARE
from edge_runtime.lab.bench.settings import BenchSettings
from edge_runtime.telemetry.samples import rate, rounded

STEADY_PERCENT = 5.0
"""A sentinel that is that much slower or faster at the end is no longer on the same machine."""
_FULL = 0.98


def sentinel_json(sentinels: Sequence[Request]) -> dict[str, Any]:
    """Return how the same request went at start and end."""
    speeds = [rate(request.decode.tokens, request.decode.wall_ns) for request in sentinels]
    change = None
    if len(speeds) == 2 and speeds[0] and speeds[1]:
        change = 100 * (speeds[1] / speeds[0] - 1)
    return {
        "decode_tok_s": [rounded(speed) for speed in speeds],
        "ttft_ms": [rounded(request.ttft_ms) for request in sentinels],
        "hit_rate": [rounded(hit_rate(request)) for request in sentinels],
        "change_percent": rounded(change),
        "steady_within_percent": STEADY_PERCENT,
        "is_steady": None if change is None else abs(change) <= STEADY_PERCENT,
    }


def hit_rate(request: Request) -> float | None:
    """Return the share of a request's decoded lookups that were resident."""
    found = request.decode.experts
    return found.hits / found.lookups if found.lookups else None


def cache_proof(requests: Sequence[Request], settings: BenchSettings, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what shows that the caches were in the state the settings name, when the requests began.

    `is_proven` is None where the kernel does not say what is in its page cache.
    """
    shares = [r.before.page_cache.share if r.before.page_cache else None for r in requests]
    resident = [sum(r.residency[0][1].values()) if r.residency else None for r in requests]
    room = min(facts["num_slots"], facts["num_all_experts"])
    is_proven: bool | None
    if settings.cache == "cold":
        empty = all(count == 0 for count in resident)
        known = [share for share in shares if share is not None]
        is_proven = empty and all(share <= COLD_SHARE for share in known)
        is_proven = None if is_proven and len(known) < len(shares) else is_proven
    else:
        is_proven = all(count is not None and count >= _FULL * room for count in resident)
    return {
        "state": settings.cache,
        "is_proven": is_proven,
        "page_cache_share": [rounded(share) for share in shares],
        "residents_at_start": resident,
        "room_for_experts": room,
    }


def warnings(bench: dict[str, Any]) -> list[str]:
    """Return what makes the figures of a report's `bench` object less than they look."""
    return [text for text in (*_of_machine(bench), *_of_workload(bench)) if text]


def _of_machine(bench: dict[str, Any]) -> list[str | None]:
    sentinel, requests = bench["sentinel"], bench["requests"]
    hot = [r["number"] for r in requests if r["thermal_gate"] and r["thermal_gate"]["is_met"] is False]
    slowed = throttled(requests)
    return [
        f"the machine changed: the same request decoded {sentinel['change_percent']:+.1f} % tok/s at the end"
        if sentinel["is_steady"] is False
        else None,
        f"{len(hot)} of {len(requests)} requests began hotter than allowed" if hot else None,
        f"the kernel counted throttling: {', '.join(f'{k} +{n}' for k, n in slowed.items())}" if slowed else None,
    ]


def throttled(requests: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Return by how much counters of throttling grew from the first request's start to the last one's end."""
    first = (requests[0]["conditions_before"] or {}).get("throttle_events", {}) if requests else {}
    last = (requests[-1]["conditions_after"] or {}).get("throttle_events", {}) if requests else {}
    return {name: last[name] - first[name] for name in first if last.get(name, 0) > first[name]}


def _of_workload(bench: dict[str, Any]) -> list[str | None]:
    prompts, proof = bench["prompts"], bench["cache_proof"]
    if proof["state"] == "cold":
        unsaid = "the kernel does not say what is in its page cache, so nothing proves that it was cold"
        state = {True: None, None: unsaid, False: "the caches were not cold"}[proof["is_proven"]]
    else:
        fullest, room = max(proof["residents_at_start"], default=0), proof["room_for_experts"]
        least = min(proof["residents_at_start"], default=0)
        state = (
            None
            if proof["is_proven"]
            else f"the expert cache was still filling: {least} to {fullest} of {room} experts. Raise --warmup"
        )
    repeated = prompts["distinct"] < prompts["requests"]
    return [state, "prompts repeat, which flatters a cache: give a longer text" if repeated else None]
