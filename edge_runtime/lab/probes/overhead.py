"""Probe: what a decoded token takes besides trunk, experts and reads: routing, the cache, sampling, Python."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter, perf_counter_ns
from typing import Any

from edge_runtime.engine.api import Engine
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.lab.probes.base import Subject
from edge_runtime.telemetry.samples import phases

SUMMARY = "decoding: time of a token by phase, and what none of them explains"
_TOKENS = 17
_ROUNDS = 3


@dataclass(frozen=True)
class DecodeOverhead:
    """Decoded tokens, divided into phases that add up to wall time.

    Attributes:
        token_ms: the median round's wall time of a token.
        phase_ms: of that round, a token: 'trunk', 'experts', 'read_wait', 'other'.
        layer_us: 'other' of that round by layer and token.
        rounds: of each round the phases, milliseconds a token.
        tokens: decoded in each round.
    """

    token_ms: float
    phase_ms: dict[str, float]
    layer_us: float
    rounds: tuple[dict[str, float], ...]
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return it for people."""
        parts = ", ".join(f"{name} {ms:.3f}" for name, ms in self.phase_ms.items())
        return [f"{self.token_ms:.3f} ms a token: {parts}", f"other: {self.layer_us:.1f} us a layer"]


def run(subject: Subject) -> DecodeOverhead:
    """Measure."""
    with subject.open_engine() as engine:
        return measure(engine, subject.seconds)


def measure(engine: Engine, seconds: float) -> DecodeOverhead:
    """Generate short answers, after one that does not count, until the time is over."""
    _round(engine, 0)
    rounds: list[dict[str, float]] = []
    started = perf_counter()
    while len(rounds) < _ROUNDS or perf_counter() - started < seconds:
        rounds.append(_round(engine, len(rounds) + 1))
    walls = [sum(each.values()) for each in rounds]
    middle = rounds[walls.index(sorted(walls)[len(walls) // 2])]
    return DecodeOverhead(
        token_ms=round(median(walls), 6),
        phase_ms=middle,
        layer_us=round(1000 * middle["other"] / engine.spec.num_layers, 3),
        rounds=tuple(rounds),
        tokens=_TOKENS - 1,
    )


def _round(engine: Engine, seed: int) -> dict[str, float]:
    """Return milliseconds a token by phase; the first token comes with the prompt and is not counted."""
    params = SamplingParams(max_tokens=_TOKENS, temperature=1.0, seed=seed, ignore_eos=True)
    stream = engine.stream([seed % engine.spec.vocab_size], params)
    next(stream)
    spans, cache = engine.parts.decoder.spans, engine.parts.cache
    spans_before, stall_before, started = spans.ns, cache.counters.stall_ns, perf_counter_ns()
    count = sum(1 for _ in stream)
    wall = perf_counter_ns() - started
    own = {name: ns - spans_before.get(name, 0) for name, ns in spans.ns.items()}
    found = phases(wall, own, cache.counters.stall_ns - stall_before)
    return {name: round(ns / 1e6 / count, 6) for name, ns in found.items()}
