"""Figures of the service: counters, histograms, the engine's state and what never changes.

The serving loop writes them; metrics, the status page and the log of systemd read them. Nothing here knows HTTP.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.telemetry.conditions import Conditions
from edge_runtime.telemetry.power.sampler import PowerSampler

FINISH_REASONS = ("stop", "length", "tool_calls", "cancelled", "timeout", "error")
REJECT_REASONS = ("queue_full", "draining", "loading")
# upper bounds in seconds, as vLLM's dashboards have them
LATENCY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
STEP_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)


class Histogram:
    """Counts of observations by upper bound. Not thread-safe by itself; `ServiceStats` holds the lock."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Add one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def copy(self) -> Histogram:
        """Return an independent copy."""
        other = Histogram(self.bounds)
        other.counts, other.sum = list(self.counts), self.sum
        return other

    @property
    def count(self) -> int:
        """Observations so far."""
        return sum(self.counts)


@dataclass(frozen=True)
class EngineState:
    """The engine as the serving loop last saw it; published between steps, safe to read from any thread.

    Attributes:
        experts: totals since opening.
        residency: for each sparse layer, tier -> experts resident at it.
        cache_used_bytes: bytes of slots in use.
        cache_bytes: bytes of all slots.
        kv_used_tokens: tokens held in the KV caches of all sessions.
        kv_tokens: tokens they can hold.
        policy: name and parameters in force.
        spans_ns: nanoseconds by phase: 'trunk', 'experts'.
        budget_bytes: the plan's ceiling for the process.
        planned_bytes: sum of the plan's lines.
        elastic: what elastic memory did; None without it.
        preload: how far a warm start is; None without one.
        choices: what the backend chose where several ways were open, by part.
    """

    experts: ExpertCounters
    residency: Mapping[int, Mapping[int, int]]
    cache_used_bytes: int
    cache_bytes: int
    kv_used_tokens: int
    kv_tokens: int
    policy: Mapping[str, Any]
    spans_ns: Mapping[str, int] = field(default_factory=dict)
    budget_bytes: int = 0
    planned_bytes: int = 0
    elastic: Mapping[str, Any] | None = None
    preload: Mapping[str, Any] | None = None
    choices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ServiceInfo:
    """What does not change while the service runs.

    Attributes:
        model_name: the id `/v1/models` lists.
        family: `ModelSpec.family`.
        num_layers: L.
        num_experts: E, routed experts of a sparse layer.
        top_k: K.
        tier: the tier that counts as full.
        backend: where it computes.
        version: of hobbit-edge.
        passed_over: backends whose hardware is there and unused, with the reason.
    """

    model_name: str
    family: str
    num_layers: int
    num_experts: int
    top_k: int
    tier: int
    backend: str
    version: str
    passed_over: Mapping[str, str] = field(default_factory=dict)


class Figures:
    """Counters and histograms of one service. Take a consistent copy with `ServiceStats.read`."""

    def __init__(self) -> None:
        self.finished = dict.fromkeys(FINISH_REASONS, 0)
        self.rejected = dict.fromkeys(REJECT_REASONS, 0)
        self.running = 0
        self.waiting = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generation_tokens = 0
        self.draft_tokens = 0
        self.accepted_tokens = 0
        self.steps = 0
        self.decode_width = 0
        self.time_to_first_token = Histogram(LATENCY_BOUNDS)
        self.inter_token_latency = Histogram(STEP_BOUNDS)
        self.e2e_latency = Histogram(LATENCY_BOUNDS)
        self.queue_time = Histogram(LATENCY_BOUNDS)
        self.prefill_time = Histogram(LATENCY_BOUNDS)
        self.decode_time = Histogram(LATENCY_BOUNDS)

    def copy(self) -> Figures:
        """Return an independent copy."""
        other = Figures()
        for name, value in vars(self).items():
            setattr(other, name, value.copy() if hasattr(value, "copy") else value)
        return other


class ServiceStats:
    """Thread-safe figures of the service.

    Attributes:
        started: monotonic seconds.
        engine: as the serving loop last saw it; None until it is loaded.
        power: samples the machine's power; None without a meter.
        conditions: reads temperatures, clocks and throttling; None until the engine is loaded.

    Example:
        >>> stats = ServiceStats()
        >>> with stats.update() as figures:
        ...     figures.prompt_tokens += 7
        >>> stats.read().prompt_tokens
        7
    """

    def __init__(self) -> None:
        self._figures = Figures()
        self._lock = threading.Lock()
        self.started = monotonic()
        self.engine: EngineState | None = None
        self.power: PowerSampler | None = None
        self.conditions: Callable[[], Conditions] | None = None

    def update(self) -> _Update:
        """Hold the figures for writing: ``with stats.update() as figures``."""
        return _Update(self._lock, self._figures)

    def read(self) -> Figures:
        """Return a consistent copy."""
        with self._lock:
            return self._figures.copy()


class _Update:
    def __init__(self, lock: threading.Lock, figures: Figures) -> None:
        self._lock, self._figures = lock, figures

    def __enter__(self) -> Figures:
        self._lock.acquire()
        return self._figures

    def __exit__(self, *_: object) -> None:
        self._lock.release()
