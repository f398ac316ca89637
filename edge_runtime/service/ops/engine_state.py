"""Copies the engine's figures between two passes, for metrics and the status page."""

from __future__ import annotations

from functools import partial
from time import monotonic

from edge_runtime.engine.parts import Parts
from edge_runtime.engine.report import describe_policy
from edge_runtime.engine.sessions import SessionPool
from edge_runtime.service.ops.figures import EngineState, ServiceStats
from edge_runtime.telemetry.conditions import read_conditions
from edge_runtime.telemetry.power import parse_choice

_EVERY_S = 0.25
CHOSEN = ("trunk", "memory")
"""Choices of a backend that are published; they hold as long as it is open."""


class EngineStatePublisher:
    """Publishes an `EngineState` a few times a second, and from the start on what reads power and temperatures.

    Args:
        parts: the engine's.
        pool: the KV caches.
        stats: where it is published.
    """

    def __init__(self, parts: Parts, pool: SessionPool, stats: ServiceStats) -> None:
        self._parts, self._pool, self._stats = parts, pool, stats
        self._next = 0.0
        chosen = parts.backend.choices
        self._choices = {name: str(chosen[name]) for name in CHOSEN if name in chosen}
        stats.power = parts.power
        stats.conditions = partial(read_conditions, parse_choice(parts.config.power_meter).root)

    def publish(self, *, even_if_fresh: bool = False) -> None:
        """Publish, unless the last state is fresh. For the serving loop's thread."""
        if monotonic() < self._next and not even_if_fresh:
            return
        self._next = monotonic() + _EVERY_S
        parts, cache = self._parts, self._parts.cache
        residency: dict[int, dict[int, int]] = {}
        for layer_idx in parts.bundle.manifest.model.sparse_layers:
            tiers = cache.resident_tiers(layer_idx).tolist()
            residency[layer_idx] = {tier: tiers.count(tier) for tier in set(tiers) if tier}
        used = sum(sum(by_tier.values()) for by_tier in residency.values())
        self._stats.engine = EngineState(
            experts=cache.counters,
            residency=residency,
            cache_used_bytes=used * parts.plan.slot_bytes,
            cache_bytes=cache.nbytes,
            kv_used_tokens=self._pool.used_tokens,
            kv_tokens=self._pool.capacity_tokens,
            policy=describe_policy(parts.active.policy),
            spans_ns=dict(parts.decoder.spans.ns),
            budget_bytes=parts.plan.budget_bytes,
            planned_bytes=parts.plan.planned_bytes,
            elastic=None if parts.elastic is None else parts.elastic.to_json(),
            preload=None if parts.preload is None else parts.preload.to_json(),
            choices=self._choices,
        )
