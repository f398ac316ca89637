"""`/metrics`: the service's figures in Prometheus' text format. Every name stands in docs/metrics.md."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from edge_runtime.bundle.record import BF16
from edge_runtime.experts.counters import READ_BOUNDS_S, ExpertCounters
from edge_runtime.service.ops.figures import EngineState, Figures, Histogram, ServiceInfo, ServiceStats
from edge_runtime.service.ops.health import Phase, Readiness
from edge_runtime.service.ops.metric_families import PREFIX, Families
from edge_runtime.telemetry.process import peak_rss_bytes

_SUCCESS = ("stop", "length", "tool_calls")
_MAX_LAYER_GROUPS = 8
_NS = 1e9


class Exposition:
    """Renders the figures; own registry, so that services in one process do not clash.

    Args:
        stats: the figures.
        readiness: the phase.
        info: what does not change.
    """

    def __init__(self, stats: ServiceStats, readiness: Readiness, info: ServiceInfo) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(ServiceCollector(stats, readiness, info))
        ProcessCollector(registry=self._registry)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the page and its content type, in the format the Accept header prefers."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type


class ServiceCollector(Collector):
    """Turns the figures into metric families at each scrape; keeps nothing. Arguments as for `Exposition`."""

    def __init__(self, stats: ServiceStats, readiness: Readiness, info: ServiceInfo) -> None:
        self._stats, self._readiness, self._info = stats, readiness, info

    def collect(self) -> Iterator[Metric]:
        """Yield every family; those of the engine only once it is loaded."""
        make = Families(self._info.model_name)
        yield InfoMetricFamily(
            f"{PREFIX}build",
            "Version of the runtime.",
            {"version": self._info.version, "python": platform.python_version()},
        )
        yield from _service(make, self._readiness.phase)
        yield from _requests(make, self._stats.read())
        engine = self._stats.engine
        if engine is not None:
            yield self._model(engine)
            unused: dict[tuple[str, ...], float] = {(name,): 1.0 for name in self._info.passed_over}
            yield make.gauges("backend_passed_over", "Hardware that is there and unused.", ("backend",), unused)
            chosen: dict[tuple[str, ...], float] = dict.fromkeys(engine.choices.items(), 1.0)
            yield make.gauges("backend_choice", "1 for what the backend chose.", ("part", "choice"), chosen)
            yield from _cache(make, engine.experts, self._info.tier)
            yield from _losses(make, engine.experts, _precision(self._info.tier))
            yield from _drive(make, engine.experts)
            yield from _memory(make, engine)
        yield from _power(make, self._stats)

    def _model(self, engine: EngineState) -> Metric:
        info = self._info
        return InfoMetricFamily(
            f"{PREFIX}model",
            "The model served and how.",
            {
                "model_name": info.model_name,
                "family": info.family,
                "tier": _precision(info.tier),
                "backend": info.backend,
                "policy": str(engine.policy.get("name", "")),
            },
        )


def _service(make: Families, phase: Phase) -> Iterator[Metric]:
    yield make.gauges(
        "service_phase",
        "1 for the phase the service is in.",
        ("phase",),
        {(known.value,): float(known is phase) for known in Phase},
    )


def _requests(make: Families, figures: Figures) -> Iterator[Metric]:
    yield make.gauge("num_requests_running", "Requests being decoded.", figures.running)
    yield make.gauge("num_requests_waiting", "Requests accepted and queued.", figures.waiting)
    finished = figures.finished
    yield make.counters(
        "request_success", "Requests answered in full.", "finished_reason", {r: finished[r] for r in _SUCCESS}
    )
    failed = {reason: count for reason, count in finished.items() if reason not in _SUCCESS}
    yield make.counters("request_failure", "Requests accepted that ended early.", "reason", failed)
    yield make.counters("requests_rejected", "Requests refused at the door.", "reason", figures.rejected)
    yield make.counter("prompt_tokens", "Prompt tokens, those found in the KV cache included.", figures.prompt_tokens)
    yield make.counter("prompt_tokens_cached", "Prompt tokens found in the KV cache.", figures.cached_tokens)
    yield make.counter("generation_tokens", "Tokens generated.", figures.generation_tokens)
    yield make.counter("spec_decode_num_draft_tokens", "Tokens of drafts.", figures.draft_tokens)
    accepted = figures.accepted_tokens
    yield make.counter("spec_decode_num_accepted_tokens", "Of those, tokens that the model drew.", accepted)
    yield make.counter("decode_steps", "Passes over the model that produced tokens.", figures.steps)
    yield make.gauge("decode_width", "Requests in the last pass.", figures.decode_width)
    for name, text, histogram in (
        ("time_to_first_token_seconds", "Arrival to first token.", figures.time_to_first_token),
        ("inter_token_latency_seconds", "Gap between two tokens of one request.", figures.inter_token_latency),
        ("e2e_request_latency_seconds", "Arrival to last token.", figures.e2e_latency),
        ("request_queue_time_seconds", "Arrival to start.", figures.queue_time),
        ("request_prefill_time_seconds", "Time spent on the prompt.", figures.prefill_time),
        ("request_decode_time_seconds", "First token to last.", figures.decode_time),
    ):
        yield make.histogram(name, text, histogram)


def _cache(make: Families, experts: ExpertCounters, full_tier: int) -> Iterator[Metric]:
    for name, text, by_tier in (
        ("hits", "Experts asked for that were resident.", experts.hits_by_tier),
        ("late", "Experts asked for whose read was under way.", experts.late_by_tier),
        ("misses", "Experts asked for that had to be read.", experts.misses_by_tier),
    ):
        # the full tier from the start, so that rates see its first increment
        counts = {_precision(tier): count for tier, count in {full_tier: 0, **by_tier}.items()}
        yield make.counters(f"expert_cache_{name}", text, "precision", counts)
    yield make.counter("expert_cache_evictions", "Experts that lost their slot.", experts.evicted)
    yield make.counter("expert_cache_truncations", "Resident experts cut to a lower precision.", experts.truncated)
    outcomes = ("used", experts.prefetch_used), ("late", experts.prefetch_late), ("wasted", experts.prefetch_wasted)
    yield make.counter("expert_prefetch_issued", "Reads started before anyone asked.", experts.prefetch_issued)
    yield make.counters("expert_prefetch", "Prefetched experts by what came of them.", "result", dict(outcomes))


def _losses(make: Families, experts: ExpertCounters, full: str) -> Iterator[Metric]:
    family = CounterMetricFamily(
        f"{PREFIX}expert_substitutions",
        "Uses of an expert served below the full precision.",
        labels=["model_name", "from", "to"],
    )
    for tier, count in dict(experts.substituted_to).items():
        family.add_metric([make.model_name, full, _precision(tier)], count)
    yield family
    yield make.counter("expert_skips", "Uses of an expert dropped by the policy.", experts.skipped)
    yield make.counter("expert_route_changes", "Uses of an expert the router did not choose.", experts.route_changed)
    yield make.counter("fallback_passes", "Passes the policy rejected, which ran a second time.", experts.fallbacks)
    expected = experts.predicted_kld or 0.0
    yield make.counter("predicted_kld_nats", "KL divergence the policy expected to cost, summed over tokens.", expected)


def _drive(make: Families, experts: ExpertCounters) -> Iterator[Metric]:
    yield make.counter("expert_read_bytes", "Bytes read from the drive.", experts.bytes_read)
    reads = Histogram(READ_BOUNDS_S)
    reads.counts, reads.sum = list(experts.read_buckets), experts.read_ns / _NS
    yield make.histogram("expert_read_seconds", "Asking for an expert to having it read and checked.", reads)
    busy = experts.read_busy_ns / _NS
    yield make.counter("expert_read_busy_seconds", "Time the drive had at least one read to do.", busy)
    yield make.counter(
        "expert_stall_seconds", "Time with nothing to compute until a read ends.", experts.stall_ns / _NS
    )


def _memory(make: Families, engine: EngineState) -> Iterator[Metric]:
    yield make.gauge("expert_cache_bytes", "Bytes of resident experts.", engine.cache_used_bytes)
    yield make.gauge("expert_cache_capacity_bytes", "Bytes of the expert arena.", engine.cache_bytes)
    yield make.gauges(
        "expert_cache_residents",
        "Experts resident, by group of layers and precision.",
        ("layer_group", "precision"),
        residents_by_group(engine.residency),
    )
    share = engine.kv_used_tokens / engine.kv_tokens if engine.kv_tokens else 0.0
    yield make.gauge("kv_cache_usage_perc", "KV cache in use, 0 to 1.", share)
    yield make.gauge("kv_cache_tokens", "Tokens in the KV caches.", engine.kv_used_tokens)
    yield make.gauge("kv_cache_capacity_tokens", "Tokens the KV caches can hold.", engine.kv_tokens)
    yield make.gauge("memory_budget_bytes", "Ceiling for the whole process.", engine.budget_bytes)
    yield make.gauge("memory_planned_bytes", "Sum of the memory plan.", engine.planned_bytes)
    yield make.gauge("memory_peak_bytes", "Highest resident set of the process.", peak_rss_bytes())


def _power(make: Families, stats: ServiceStats) -> Iterator[Metric]:
    """What sensors say; a rail or zone that does not answer has no series."""
    if stats.power is not None:
        watts, joules = stats.power.now()
        labelled: dict[tuple[str, ...], float] = {(rail,): value for rail, value in watts.items()}
        yield make.gauges("power_watts", "Power at the last reading.", ("rail",), labelled)
        yield make.counters("energy_joules", "Energy since the engine was opened.", "rail", joules)
    if stats.conditions is not None:
        now = stats.conditions()
        zones: dict[tuple[str, ...], float] = {(zone,): c for zone, c in now.temperatures_c.items()}
        yield make.gauges("temperature_celsius", "Temperature of a part of the machine.", ("zone",), zones)
        yield make.counters("throttle_events", "Times the machine slowed itself down.", "source", now.throttle_events)


def residents_by_group(residency: Mapping[int, Mapping[int, int]]) -> dict[tuple[str, ...], float]:
    """Sum residents over at most eight groups of neighbouring layers, so that the number of series is bounded."""
    layers = sorted(residency)
    size = max(1, -(-len(layers) // _MAX_LAYER_GROUPS))
    found: dict[tuple[str, ...], float] = {}
    for start in range(0, len(layers), size):
        group = layers[start : start + size]
        name = f"{group[0]}-{group[-1]}" if len(group) > 1 else str(group[0])
        for layer in group:
            for tier, count in residency[layer].items():
                key = (name, _precision(tier))
                found[key] = found.get(key, 0) + count
    return found


def _precision(tier: int) -> str:
    return "bf16" if tier == BF16 else str(tier)
