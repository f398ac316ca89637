"""Probe: how fast experts of this bundle are computed, by tier and number of tokens, everything in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from statistics import median
from typing import Any

import numpy as np

from edge_runtime.base.arrays import I32, I64, U8
from edge_runtime.base.errors import DeviceError
from edge_runtime.engine.parts import Parts
from edge_runtime.lab.probes.base import Subject
from edge_runtime.telemetry.spans import Spans

SUMMARY = "expert kernels: time and GB/s by tier and tokens"
TOKENS = (1, 4, 16, 64)
_SAMPLES = 50
"""Of a point: each is the mean of as many calls as fill the time."""


@dataclass(frozen=True)
class KernelPoint:
    """One layer's experts, computed again and again.

    Attributes:
        tier: their precision.
        tokens: T, each with its top-k.
        experts: distinct ones, of how many bytes together.
        layer_ms: the median of the samples.
        gb_s: bytes of the experts by that time.
        samples_ms: of each round.
    """

    tier: int
    tokens: int
    experts: int
    nbytes: int
    layer_ms: float
    gb_s: float
    samples_ms: tuple[float, ...]


@dataclass(frozen=True)
class KernelSpeed:
    """All points, and what computed."""

    points: tuple[KernelPoint, ...]
    computes_on: str
    threads: int

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return it for people."""
        return [
            f"tier {p.tier:>2}, {p.tokens:>3} tokens, {p.experts:>3} experts{p.layer_ms:>10.3f} ms a layer"
            f"{p.gb_s:>9.2f} GB/s"
            for p in self.points
        ]


def run(subject: Subject) -> KernelSpeed:
    """Measure every tier of the bundle.

    Raises:
        DeviceError: the cache does not hold one layer's experts.
    """
    points: list[KernelPoint] = []
    computes_on, threads = "", 0
    for tier in sorted(subject.planned.bundle.manifest.experts.tiers):
        with subject.open_engine(tier=tier, prefetch="off", policy="lossless") as engine:
            parts = engine.parts
            computes_on, threads = parts.fingerprint, parts.config.threads
            points += [measure(parts, tokens, subject.seconds) for tokens in TOKENS if tokens <= _most_tokens(parts)]
    return KernelSpeed(tuple(points), computes_on, threads)


def measure(parts: Parts, tokens: int, seconds: float) -> KernelPoint:
    """Compute the experts of the first sparse layer for so many tokens, until the time is over."""
    with ResidentLayer(parts, tokens) as compute:
        calls = max(1, int(1e9 * seconds / _SAMPLES / max(compute(), 1)))
        samples = [round(sum(compute() for _ in range(calls)) / calls / 1e6, 6) for _ in range(_SAMPLES)]
        count = compute.experts
    spent, size = median(samples), count * parts.plan.slot_bytes
    return KernelPoint(parts.plan.tier, tokens, count, size, round(spent, 6), round(size / spent / 1e6, 4), (*samples,))


class ResidentLayer:
    """Prepares a layer whose experts are in memory; called, it computes those of some tokens and returns nanoseconds.

    Each call takes other experts, all of the layer in turn as far as they fit: the same ones again and again would come
    from the CPU's caches, while in decoding they come from memory.

    Args:
        parts: an engine's; nobody else uses them meanwhile.
        tokens: T, of which each gets experts of its own as far as there are enough.
    """

    def __init__(self, parts: Parts, tokens: int) -> None:
        spec, cache = parts.spec, parts.cache
        self._parts, self._layer = parts, spec.sparse_layers[0]
        resident = min(spec.num_experts, cache.num_slots)
        self.experts = min(resident, tokens * spec.top_k)
        if self.experts < spec.top_k:
            raise DeviceError(f"kernel probe: {cache.num_slots} slots are fewer than the {spec.top_k} a token uses.")
        picks = np.arange(tokens * spec.top_k).reshape(tokens, spec.top_k) % self.experts
        self._weights = np.full(picks.shape, 1 / spec.top_k, np.float32)
        self._selections: Iterator[tuple[Any, Any]] = cycle(
            _selection(parts, (picks + first) % resident) for first in range(0, resident, self.experts)
        )
        self._rounds = -(-resident // self.experts)
        self._tokens = np.zeros(tokens, np.int32)
        self._spans = Spans(parts.backend.clock)
        self._x: Any = None

    def __enter__(self) -> ResidentLayer:
        """Bring the experts into memory, and a real state in front of them."""
        parts = self._parts
        parts.kv.reset()
        parts.cache.begin_request()
        parts.cache.begin_pass()
        chunk, out = parts.trunk.begin(self._tokens, parts.kv), None
        for layer_idx in range(self._layer + 1):
            out = parts.trunk.run_layer(chunk, layer_idx, None)
        assert out is not None
        self._x = out.x
        for _ in range(self._rounds):
            self()
        return self

    def __exit__(self, *exception: object) -> None:
        self._parts.cache.finish_reads()
        self._parts.kv.reset()

    def __call__(self) -> int:
        """Compute all of them once; return nanoseconds by the backend's own clock, reads not among them."""
        kernels, span = self._parts.kernels, self._spans.span("experts")
        before = span.ns
        ids, tiers = next(self._selections)
        ready = self._parts.cache.stream(self._layer, tiers)
        with span:
            kernels.begin(self._x, ids, self._weights)
        for batch in ready:
            with span:
                kernels.run_experts(batch.tier, batch.segments, batch.experts)
        with span:
            self._parts.backend.tensors.to_host(kernels.end())
        return span.ns - before


def _selection(parts: Parts, ids: I64) -> tuple[I32, U8]:
    """Return int32 [T, K] of a call, and uint8 [E], the tier of each expert it needs."""
    tiers = np.zeros(parts.spec.num_experts, np.uint8)
    tiers[ids] = parts.plan.tier
    return ids.astype(np.int32), tiers


def _most_tokens(parts: Parts) -> int:
    return min(parts.decoder.max_chunk, parts.config.context)
