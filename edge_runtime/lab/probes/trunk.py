"""Probe: time of each segment of the trunk for one token: a layer's dense part, and the head."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from edge_runtime.engine.parts import Parts
from edge_runtime.lab.probes.base import Subject
from edge_runtime.telemetry.spans import Spans

SUMMARY = "trunk: time of each layer's dense part and of the head, one token"
_BEFORE = 64
_ROUNDS, _MOST_ROUNDS = 5, 100


@dataclass(frozen=True)
class Segment:
    """One part of the trunk: 'layer 3' or 'head'. Its median time, and that of each round."""

    name: str
    ms: float
    samples_ms: tuple[float, ...]


@dataclass(frozen=True)
class TrunkSpeed:
    """All segments.

    Attributes:
        segments: in the order they run.
        tokens_before: tokens in the KV cache meanwhile.
        weight_bytes: of the trunk.
    """

    segments: tuple[Segment, ...]
    tokens_before: int
    weight_bytes: int

    @property
    def total_ms(self) -> float:
        """Sum of the medians."""
        return sum(segment.ms for segment in self.segments)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self) | {"total_ms": round(self.total_ms, 6)}

    def lines(self) -> list[str]:
        """Return it for people: the sum, the slowest, and the head."""
        layers = [segment for segment in self.segments if segment.name != "head"]
        slowest = max(layers, key=lambda segment: segment.ms)
        return [
            f"{self.total_ms:.3f} ms a token, {self.tokens_before} tokens behind it",
            f"{len(layers)} layers: median {median(s.ms for s in layers):.3f} ms, slowest {slowest.name} "
            f"{slowest.ms:.3f} ms; head {self.segments[-1].ms:.3f} ms",
        ]


def run(subject: Subject) -> TrunkSpeed:
    """Measure."""
    with subject.open_engine(prefetch="off") as engine:
        return measure(engine.parts, subject.seconds)


def measure(parts: Parts, seconds: float) -> TrunkSpeed:
    """Run single tokens through the trunk alone, experts giving nothing, until the time is over."""
    before = min(_BEFORE, parts.config.context - 1)
    parts.cache.begin_request()
    parts.kv.reset()
    parts.decoder.prefill(np.zeros(before, np.int32), parts.kv)
    names = [*(f"layer {number}" for number in range(parts.spec.num_layers)), "head"]
    samples: dict[str, list[float]] = {name: [] for name in names}
    _token(parts, names)
    started = perf_counter()
    while (rounds := len(samples["head"])) < _ROUNDS or perf_counter() - started < seconds:
        if rounds == _MOST_ROUNDS:
            break
        for name, spent in _token(parts, names).items():
            samples[name].append(round(spent / 1e6, 6))
    parts.kv.reset()
    segments = (Segment(name, round(median(each), 6), tuple(each)) for name, each in samples.items())
    return TrunkSpeed(tuple(segments), before, parts.trunk.weight_bytes)


def _token(parts: Parts, names: list[str]) -> dict[str, int]:
    """Run one token that is not committed; return the nanoseconds of each segment by the backend's own clock."""
    trunk, spans = parts.trunk, Spans(parts.backend.clock)
    chunk = trunk.begin(np.zeros(1, np.int32), parts.kv)
    for layer_idx, name in enumerate(names[:-1]):
        with spans.span(name):
            if trunk.run_layer(chunk, layer_idx, None) is not None and parts.spec.layers[layer_idx].shared is not None:
                trunk.run_shared(chunk, layer_idx)
    with spans.span(names[-1]):
        trunk.head(chunk, None, slice(1))
    return spans.ns
