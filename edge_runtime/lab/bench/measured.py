"""One request of a benchmark: run, and everything that is measured of it. Instruments are read between tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import Any

import numpy as np

from edge_runtime.base.errors import RequestError
from edge_runtime.engine.api import Engine
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.lab.bench.page_cache import PageCache
from edge_runtime.lab.bench.prompts import Prompts
from edge_runtime.lab.bench.settings import BenchSettings
from edge_runtime.lab.bench.thermal_gate import Passed
from edge_runtime.telemetry.conditions import Conditions
from edge_runtime.telemetry.process import drive_bytes
from edge_runtime.telemetry.report import RunReport
from edge_runtime.telemetry.samples import phases

RESIDENCY_NS = 500_000_000
"""Which experts are resident is looked at that often while tokens come."""


@dataclass(frozen=True)
class Stage:
    """One part of a request: the prompt up to the first token, or everything after it.

    Attributes:
        wall_ns: from start to end.
        tokens: tokens run.
        phases_ns: nanoseconds by phase: the engine's spans, 'read_wait' and 'other'; they add up to `wall_ns`.
        experts: what happened to experts.
        drive_bytes: bytes the kernel fetched from the drive for this process; None if it does not say.
    """

    wall_ns: int
    tokens: int
    phases_ns: dict[str, int]
    experts: ExpertCounters
    drive_bytes: int | None


@dataclass(frozen=True)
class Before:
    """What a request found.

    Attributes:
        page_cache: of the bundle's files.
        gate: how it got past the thermal gate.
        conditions: temperatures, clocks, throttling.
    """

    page_cache: PageCache | None = None
    gate: Passed | None = None
    conditions: Conditions | None = None


@dataclass(frozen=True)
class Request:
    """One measured request.

    Attributes:
        number: of its prompt and seed.
        load_ms: time its engine took to open.
        ttft_ms: from asking to the first token.
        prompt_ms: the prompt's pass alone.
        gap_ms: between tokens, as whoever reads the stream sees it; one less than tokens generated.
        prefill, decode: the two stages.
        report: the engine's own report.
        start_ns, first_ns, end_ns: `monotonic_ns` when it was asked, at its first token, at its last.
        residency: at which times how many experts were resident, by tier.
        before: what it found.
        after: temperatures, clocks, throttling at its end.
    """

    number: int
    load_ms: float
    ttft_ms: float
    prompt_ms: float
    gap_ms: list[float]
    prefill: Stage
    decode: Stage
    report: RunReport
    start_ns: int = 0
    first_ns: int = 0
    end_ns: int = 0
    residency: list[tuple[int, dict[int, int]]] = field(default_factory=list)
    before: Before = field(default_factory=Before)
    after: Conditions | None = None


@dataclass(frozen=True)
class _Instruments:
    """Every counter that only grows, read at one moment."""

    spans_ns: dict[str, int]
    experts: ExpertCounters
    drive_bytes: int | None

    @staticmethod
    def read(engine: Engine) -> _Instruments:
        parts = engine.parts
        return _Instruments(dict(parts.decoder.spans.ns), parts.cache.counters, drive_bytes())

    def stage(self, later: _Instruments, wall_ns: int, tokens: int) -> Stage:
        """What happened from here to `later`."""
        experts = later.experts.since(self.experts)
        spans = {name: ns - self.spans_ns.get(name, 0) for name, ns in later.spans_ns.items()}
        read = None if self.drive_bytes is None or later.drive_bytes is None else later.drive_bytes - self.drive_bytes
        return Stage(wall_ns, tokens, phases(wall_ns, spans, experts.stall_ns), experts, read)


def measure(
    engine: Engine, prompts: Prompts, settings: BenchSettings, number: int, found: Before | None = None
) -> Request:
    """Run one request to its end.

    Raises:
        RequestError: it ended before all its tokens were generated.
    """
    ids = prompts(number)
    params = SamplingParams(
        max_tokens=settings.gen_tokens,
        temperature=settings.temperature,
        seed=settings.seed + number,
        ignore_eos=True,
    )
    residency = [(monotonic_ns(), residents(engine))]
    before = _Instruments.read(engine)
    stream = engine.stream(ids, params)
    started = monotonic_ns()
    next(stream)
    first_ns = monotonic_ns()
    first = _Instruments.read(engine)
    gaps_ns: list[int] = []
    last = begun = looked = monotonic_ns()
    for _ in stream:
        now = monotonic_ns()
        gaps_ns.append(now - last)
        if now - looked > RESIDENCY_NS:
            residency.append((now, residents(engine)))
            looked = now
        last = now
    after = _Instruments.read(engine)
    if len(gaps_ns) != settings.gen_tokens - 1:
        raise RequestError(f"request {number}: expected {settings.gen_tokens} tokens, got {len(gaps_ns) + 1}.")
    residency.append((monotonic_ns(), residents(engine)))
    report = engine.last_report()
    return Request(
        number=number,
        load_ms=float(report.timings["load_ms"]),
        ttft_ms=(first_ns - started) / 1e6,
        prompt_ms=float(report.timings["prompt_ms"]),
        gap_ms=[ns / 1e6 for ns in gaps_ns],
        prefill=before.stage(first, first_ns - started, len(ids)),
        decode=first.stage(after, last - begun, len(gaps_ns)),
        report=report,
        start_ns=started,
        first_ns=first_ns,
        end_ns=last,
        residency=residency,
        before=found or Before(),
    )


def residents(engine: Engine) -> dict[int, int]:
    """Return how many experts are resident at each tier, over all layers."""
    cache = engine.parts.cache
    total = np.zeros(256, np.int64)
    for layer_idx in engine.spec.sparse_layers:
        total += np.bincount(cache.resident_tiers(layer_idx), minlength=256)
    return {int(tier): int(total[tier]) for tier in np.flatnonzero(total) if tier}


def total_phases(stages: list[Stage]) -> dict[str, int]:
    """Return nanoseconds by phase over several stages."""
    total: dict[str, int] = {}
    for stage in stages:
        _add(total, stage.phases_ns)
    return total


def total_experts(stages: list[Stage]) -> ExpertCounters:
    """Return the sum of several stages' counters."""
    total = ExpertCounters()
    for stage in stages:
        for name, value in vars(stage.experts).items():
            old = getattr(total, name)
            if isinstance(value, dict):
                _add(old, value)
            elif isinstance(value, list):
                setattr(total, name, [a + b for a, b in zip(old, value, strict=True)])
            elif value is not None:
                setattr(total, name, value + (old or 0))
    return total


def _add(total: dict[Any, int], more: Mapping[Any, int]) -> None:
    for key, value in more.items():
        total[key] = total.get(key, 0) + value
