"""Where the time of a token goes: spans and reads of one request that is recorded, and not measured.

Written as Chrome's trace format (JSON), which Perfetto (ui.perfetto.dev) and chrome://tracing show.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter_ns as now_ns
from typing import Any, NamedTuple

from edge_runtime.engine.api import Engine
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.experts.store.base import ExpertKey
from edge_runtime.lab.bench.prompts import Prompts
from edge_runtime.lab.bench.settings import BenchSettings
from edge_runtime.telemetry.spans import SpanEvent

MAX_EVENTS = 200_000
_ENGINE, _DRIVE = 1, 2


class ReadEvent(NamedTuple):
    """An expert was read: when it was asked for, and how long that took, queueing included; by the host's clock."""

    layer_idx: int
    expert_idx: int
    start_ns: int
    duration_ns: int


@dataclass(frozen=True)
class RequestTrace:
    """What happened while one request ran.

    Attributes:
        spans: of the engine, in order.
        reads: of experts, in the order they were over.
        tokens_ns: when each token came.
        start_ns: when the request was asked.
        is_cut: more happened than is kept.
    """

    spans: list[SpanEvent]
    reads: list[ReadEvent]
    tokens_ns: list[int]
    start_ns: int
    is_cut: bool

    def to_chrome(self) -> dict[str, Any]:
        """Return the object of Chrome's trace format: times in microseconds from the start of the request."""
        events: list[dict[str, Any]] = [
            _named("process_name", _ENGINE, "hobbit"),
            _named("thread_name", _ENGINE, "engine"),
            _named("thread_name", _DRIVE, "drive"),
        ]
        for span in self.spans:
            layer = {} if span.layer_idx is None else {"layer": span.layer_idx}
            when = {"ts": self._us(span.start_ns), "dur": (span.end_ns - span.start_ns) / 1000}
            events.append(
                {"name": span.name, "cat": "engine", "ph": "X", "pid": 1, "tid": _ENGINE, **when, "args": layer}
            )
        for number, read in enumerate(self.reads):
            names = {"layer": read.layer_idx, "expert": read.expert_idx}
            each = {"name": "read", "cat": "drive", "pid": 1, "tid": _DRIVE, "id": number, "args": names}
            events.append({**each, "ph": "b", "ts": self._us(read.start_ns)})
            events.append({**each, "ph": "e", "ts": self._us(read.start_ns + read.duration_ns)})
        for number, at in enumerate(self.tokens_ns):
            events.append(
                {"name": f"token {number}", "ph": "i", "s": "p", "pid": 1, "tid": _ENGINE, "ts": self._us(at)}
            )
        return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"is_cut": self.is_cut}}

    def _us(self, at_ns: int) -> float:
        return (at_ns - self.start_ns) / 1000

    def to_json(self) -> dict[str, Any]:
        """Return the time of a decoded token by phase, in ms; 'cache' includes waiting for reads."""
        steps = max(len(self.tokens_ns) - 1, 1)
        phases: dict[str, int] = {}
        for span in self.spans:
            if span.start_ns >= self.tokens_ns[0]:
                phases[span.name] = phases.get(span.name, 0) + span.end_ns - span.start_ns
        wall = self.tokens_ns[-1] - self.tokens_ns[0]
        phases["other"] = max(wall - sum(phases.values()), 0)
        return {
            "tokens": len(self.tokens_ns),
            "ms_per_token": round(wall / 1e6 / steps, 4),
            "phase_ms_per_token": {name: round(ns / 1e6 / steps, 4) for name, ns in phases.items()},
            "is_cut": self.is_cut,
        }

    def last_token(self) -> tuple[int, int] | None:
        """Return when the last token's step began and ended; None with fewer than two tokens."""
        return (self.tokens_ns[-2], self.tokens_ns[-1]) if len(self.tokens_ns) > 1 else None


def _named(what: str, thread: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": 1, "tid": thread, "args": {"name": name}}


class Tracer:
    """Records one request.

    Args:
        prompts: it takes one behind those of the measured requests.
        settings: how many tokens.

    Attributes:
        trace: what was recorded; None before, or where the clock is not the host's.
    """

    def __init__(self, prompts: Prompts, settings: BenchSettings) -> None:
        self._prompts, self._settings = prompts, settings
        self.trace: RequestTrace | None = None

    def run(self, engine: Engine) -> None:
        """Run the request and keep what happened."""
        settings = self._settings
        number = settings.warmup + settings.repeat
        params = SamplingParams(
            max_tokens=settings.trace_tokens, temperature=settings.temperature, seed=settings.seed, ignore_eos=True
        )
        reads: list[ReadEvent] = []

        def watch(key: ExpertKey, start_ns: int, duration_ns: int) -> None:
            if len(reads) < MAX_EVENTS:
                reads.append(ReadEvent(*key, start_ns, duration_ns))

        cache, clock = engine.parts.cache, engine.parts.decoder.spans
        cache.watch_reads(watch)
        try:
            with clock.recording(MAX_EVENTS) as spans:
                start = now_ns()
                tokens = [now_ns() for _ in engine.stream(self._prompts(number), params)]
        finally:
            cache.watch_reads(None)
        if spans:
            is_cut = len(spans) == MAX_EVENTS or len(reads) == MAX_EVENTS
            self.trace = RequestTrace(spans, reads, tokens, start, is_cut)
