"""Runs the requests of a benchmark and takes their times. Instruments are read between tokens, never inside one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from edge_runtime.base.errors import RequestError
from edge_runtime.engine.api import Engine
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.lab.bench.prompts import Prompts
from edge_runtime.lab.bench.settings import BenchSettings
from edge_runtime.telemetry.process import drive_bytes
from edge_runtime.telemetry.report import RunReport
from edge_runtime.telemetry.samples import phases

OpenEngine = Callable[[], Engine]


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
class Request:
    """One measured request.

    Attributes:
        load_ms: time its engine took to open.
        ttft_ms: from asking to the first token.
        prompt_ms: the prompt's pass alone.
        gap_ms: between tokens, as whoever reads the stream sees it; one less than tokens generated.
        prefill, decode: the two stages.
        report: the engine's own report.
    """

    load_ms: float
    ttft_ms: float
    prompt_ms: float
    gap_ms: list[float]
    prefill: Stage
    decode: Stage
    report: RunReport


@dataclass(frozen=True)
class _Instruments:
    """Every counter that only grows, read at one moment."""

    at_ns: int
    spans_ns: dict[str, int]
    experts: ExpertCounters
    drive_bytes: int | None

    @staticmethod
    def read(engine: Engine) -> _Instruments:
        parts = engine.parts
        return _Instruments(perf_counter_ns(), dict(parts.decoder.spans.ns), parts.cache.counters, drive_bytes())

    def stage(self, later: _Instruments, wall_ns: int, tokens: int) -> Stage:
        """What happened from here to `later`."""
        experts = later.experts.since(self.experts)
        spans = {name: ns - self.spans_ns.get(name, 0) for name, ns in later.spans_ns.items()}
        read = None if self.drive_bytes is None or later.drive_bytes is None else later.drive_bytes - self.drive_bytes
        return Stage(wall_ns, tokens, phases(wall_ns, spans, experts.stall_ns), experts, read)


@dataclass
class Session:
    """Everything that was measured so far.

    Attributes:
        facts: what is the same for every request: memory plan, I/O mode, instruction set, library.
        requests: measured requests, in order.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)


def run_session(
    open_engine: OpenEngine, prompts: Prompts, settings: BenchSettings, bundle: Path, session: Session
) -> Iterator[int]:
    """Run warm-up and measured requests into `session`; yield the number of each one done, warm-up included.

    Raises:
        RequestError: the requests do not fit the context, or a request ended early.
    """
    if settings.cache == "cold":
        for number in range(settings.repeat):
            drop_page_cache(bundle)
            with _opened(open_engine, settings, session) as engine:
                session.requests.append(measure(engine, prompts, settings, number))
            yield number
        return
    with _opened(open_engine, settings, session) as engine:
        for number in range(settings.warmup + settings.repeat):
            request = measure(engine, prompts, settings, number)
            if number >= settings.warmup:
                session.requests.append(request)
            yield number


@contextmanager
def _opened(open_engine: OpenEngine, settings: BenchSettings, session: Session) -> Iterator[Engine]:
    with closing(open_engine()) as engine:
        settings.check_context(engine.parts.config.context)
        session.facts = session.facts or facts_of(engine)
        yield engine


def facts_of(engine: Engine) -> dict[str, Any]:
    """Return what the report says about an engine besides the contract's objects."""
    parts = engine.parts
    config, plan = parts.config, parts.plan
    return {
        "threads": config.threads,
        "io_threads": config.io_threads,
        "read_chunk_bytes": config.read_chunk,
        "read_mode": parts.cache.store_mode,
        "read_method": parts.cache.store_method,
        "tier": config.tier,
        "context": config.context,
        "eviction": parts.active.eviction,
        "prefetch": parts.active.prefetch,
        "profile": config.profile.name,
        "num_slots": plan.num_slots,
        "computes_on": parts.fingerprint,
        "trunk_bytes": parts.trunk.weight_bytes,
        "tier_bytes": {str(tier): size for tier, size in parts.needs.slot_bytes.items()},
        "is_fully_resident": bool(parts.cache.fits_all),
    }


def measure(engine: Engine, prompts: Prompts, settings: BenchSettings, number: int) -> Request:
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
    before = _Instruments.read(engine)
    stream = engine.stream(ids, params)
    started = perf_counter_ns()
    next(stream)
    ttft_ns = perf_counter_ns() - started
    first = _Instruments.read(engine)
    gaps_ns: list[int] = []
    last = begun = perf_counter_ns()
    for _ in stream:
        now = perf_counter_ns()
        gaps_ns.append(now - last)
        last = now
    after = _Instruments.read(engine)
    if len(gaps_ns) != settings.gen_tokens - 1:
        raise RequestError(f"request {number}: expected {settings.gen_tokens} tokens, got {len(gaps_ns) + 1}.")
    report = engine.last_report()
    return Request(
        load_ms=float(report.timings["load_ms"]),
        ttft_ms=ttft_ns / 1e6,
        prompt_ms=float(report.timings["prompt_ms"]),
        gap_ms=[ns / 1e6 for ns in gaps_ns],
        prefill=before.stage(first, ttft_ns, len(ids)),
        decode=first.stage(after, last - begun, len(gaps_ns)),
        report=report,
    )


def drop_page_cache(folder: Path) -> None:
    """Ask the kernel to forget the clean pages of every file in a folder; needs no privilege."""
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


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
