"""Engines that are reloaded, the requests they run, and what of them is compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_runtime.engine import assembly
from edge_runtime.engine.api import Engine
from edge_runtime.engine.reload import Reload
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.prefetch.governor import Governor

# three requests: a new text, its continuation from the kept prefix, another text
PROMPTS = ["The quick brown fox jumps", "The quick brown fox jumps over", "import os, sys and json"]
MEMORY, LESS_MEMORY = "3MiB", "2MiB"
TIMES = ("read_busy_ns", "stall_ns", "read_ns", "read_buckets")


class NeverOn(Governor):
    """Whether reading ahead pays is judged by the clock, and what is read ahead depends on the drive: kept out here."""

    def token(self, cost_ns: float) -> None:
        self.is_on = False


def judge_nothing_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """For engines that are opened from here on."""
    monkeypatch.setattr(assembly, "Governor", NeverOn)


def opened(bundle: Path, policy: str, **more: Any) -> Engine:
    options = {"expert_memory": MEMORY, "context": 64, "threads": 1, "self_check": False, **more}
    return Engine.open(bundle, policy=policy, **options)


def ran(engine: Engine) -> list[Any]:
    """Run the requests; return of each the tokens, the prefix that was kept, and what was counted, without times."""
    seen = []
    for prompt in PROMPTS:
        before = engine.parts.cache.counters
        report = engine.generate(prompt, SamplingParams(max_tokens=4, ignore_eos=True), reuse_prefix=True)
        engine.parts.cache.finish_reads()
        counted = late_as_hits(vars(engine.parts.cache.counters.since(before)))
        seen.append((report.token_ids, report.timings["cached_n"], report.policy, counted))
    return seen


def late_as_hits(counted: dict[str, Any]) -> dict[str, Any]:
    """Whether a read that was hinted at had landed when it was asked for, the drive decides: late counts as a hit."""
    counted["hits"] += counted.pop("late")
    late = counted.pop("late_by_tier")
    counted["hits_by_tier"] = {t: counted["hits_by_tier"].get(t, 0) + late.get(t, 0) for t in (2, 4, 6, 8)}
    counted["prefetch_used"] += counted.pop("prefetch_late")
    return {name: clean(value) for name, value in counted.items() if name not in TIMES}


def clean(value: Any) -> Any:
    """Without zeros: totals of both lives are kept, a tier that only the former one used shows as 0."""
    if isinstance(value, dict):
        return {key: count for key, count in value.items() if count}
    return round(value, 9) if isinstance(value, float) else value


def setting(engine: Engine) -> tuple[Any, ...]:
    """What is in force beside what the counts show."""
    parts, prefetcher = engine.parts, engine.parts.decoder.prefetcher
    ahead = None if prefetcher is None else (type(prefetcher.predictor).__name__, prefetcher.is_on)
    return (
        parts.active.text, parts.active.eviction, parts.active.prefetch, ahead, parts.cache.residents.min_tier,
        parts.cache.num_slots, parts.trunk.weight_bytes, parts.plan.planned_bytes - parts.needs.runtime_bytes,
    )  # fmt: skip


def reload(engine: Engine, **change: Any) -> None:
    engine.reload(Reload(**change))
