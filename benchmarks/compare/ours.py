"""Our side of a cell, alone in a process: `-m benchmarks.compare.ours` reads settings on stdin, prints one object.

The order is that of docs/benchmarks.md: ready as the service is, optional fill, cold prompt, warm-up steps, measured
steps, steady-state prompt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple

from benchmarks.compare.chosen_isa import choose
from edge_runtime import Engine, SamplingParams
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.lab.bench.surroundings import record_extents
from edge_runtime.policy.lossless import Lossless
from edge_runtime.service.ops.warmup import warm
from edge_runtime.telemetry.drive_probe import probe_drive
from edge_runtime.telemetry.process import drive_bytes, peak_rss_bytes
from edge_runtime.telemetry.samples import phases

_PROBE_S = 0.2


class Mark(NamedTuple):
    """Every growing counter at one moment."""

    ns: int
    drive_bytes: int | None
    spans: dict[str, int]
    experts: ExpertCounters


def mark(engine: Engine) -> Mark:
    parts = engine.parts
    return Mark(perf_counter_ns(), drive_bytes(), dict(parts.decoder.spans.ns), parts.cache.counters)


def stage(engine: Engine, before: Mark, after: Mark, tokens: int, *, passes: int) -> dict[str, Any]:
    """Return what happened between two marks; the trunk's weights are read once a pass."""
    experts = after.experts.since(before.experts)
    spans = {name: ns - before.spans.get(name, 0) for name, ns in after.spans.items()}
    wall = after.ns - before.ns
    sizes = engine.parts.needs.slot_bytes
    touched = sum(count * sizes.get(tier, 0) for tier, count in experts.by_tier.items())
    started, ended = before.drive_bytes, after.drive_bytes
    return {
        "n": tokens,
        "ms": round(wall / 1e6, 3),
        "read_bytes": None if started is None or ended is None else ended - started,
        "needed_bytes": needed_bytes(engine, experts),
        "touched_bytes": touched + passes * engine.parts.trunk.weight_bytes,
        "phase_ms": {k: round(v / 1e6, 2) for k, v in phases(wall, spans, experts.stall_ns).items()},
        "experts": {
            name: getattr(experts, name) for name in ("hits", "late", "misses", "bytes_read", "substituted", "skipped")
        }
        | {"read_gbps": experts.to_json()["read_gbps"]},
    }


def needed_bytes(engine: Engine, experts: ExpertCounters) -> int:
    """Return the bytes that had to come from the drive: of experts asked for, without what was read ahead in vain."""
    if engine.parts.active.policy.name != Lossless.name:
        return experts.bytes_read
    asked_for = experts.misses + experts.late + experts.prefetch_used
    return asked_for * engine.parts.needs.slot_bytes[engine.parts.config.tier]


def drive_gbps(engine: Engine, seed: int) -> float:
    """Return what the drive gives now, between two tokens, at the runtime's own block size and depth."""
    config = engine.parts.config
    extents = record_extents(engine.parts.bundle, config.tier)
    found = probe_drive(
        extents, block_bytes=config.read_chunk, depth=config.io_threads, seconds=_PROBE_S, seed=seed
    )  # fmt: skip
    return found.gbps


def prefill(engine: Engine, ids: list[int]) -> dict[str, Any]:
    """Run a prompt; its time is that of its own pass, sampling excluded."""
    before = mark(engine)
    for _ in engine.stream(ids, SamplingParams(max_tokens=1, ignore_eos=True)):
        pass
    found = stage(engine, before, mark(engine), len(ids), passes=1)
    return found | {"ms": engine.last_report().timings["prompt_ms"]}


def decode(engine: Engine, job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[int]]:
    """Run a prompt and decode from it; return prompt, measured steps, and the tokens.

    What the drive gives is probed right before and right after the measured steps, because it changes from minute to
    minute, and with what was read in the seconds before.
    """
    params = SamplingParams(
        max_tokens=1 + job["warm_steps"] + job["measured_steps"], temperature=1.0, seed=job["seed"], ignore_eos=True
    )
    start = mark(engine)
    marks: dict[int, Mark] = {}
    tokens: list[int] = []
    ceilings: list[float] = []
    for chunk in engine.stream(job["first"], params):
        tokens.append(chunk.token_id)
        if len(tokens) == 1 + job["warm_steps"] and not engine.parts.cache.fits_all:
            ceilings.append(drive_gbps(engine, job["seed"]))
        if len(tokens) in (1, 1 + job["warm_steps"]):
            marks[len(tokens)] = mark(engine)
    end = mark(engine)
    if ceilings:
        ceilings.append(drive_gbps(engine, job["seed"] + 1))
    cold = stage(engine, start, marks[1], len(job["first"]), passes=1) | {
        "ms": engine.last_report().timings["prompt_ms"]
    }
    measured = stage(engine, marks[1 + job["warm_steps"]], end, job["measured_steps"], passes=job["measured_steps"])
    return cold, measured | {"drive_gbps": ceilings}, tokens


def main() -> None:
    job = json.load(sys.stdin)
    if job.get("isa"):
        choose(job["isa"])
    with Engine.open(Path(job["bundle"]), self_check=False, **job["options"]) as engine:
        warm_ms = 1000 * warm(engine)  # llama.cpp's server warms itself too
        for ids in job["fill"]:
            prefill(engine, ids)
        cold, measured, tokens = decode(engine, job)
        steady = prefill(engine, job["second"])
        parts = engine.parts
        found = {
            "isa": parts.kernels.native.isa,
            "load_ms": round(engine.last_report().timings["load_ms"] + warm_ms, 1),
            "prefill_cold": cold,
            "decode": measured,
            "prefill": steady,
            "peak_rss_bytes": peak_rss_bytes(),
            "budget_bytes": parts.plan.budget_bytes,
            "num_slots": parts.plan.num_slots,
            "is_fully_resident": bool(parts.cache.fits_all),
            "policy": {"name": parts.active.policy.name, "params": parts.active.policy.params},
            "read_mode": parts.cache.store_mode,
            "read_method": parts.cache.store_method,
            "last_token": tokens[-1],
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
