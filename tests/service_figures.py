"""Figures of an invented service, for tests of what reads them."""

from __future__ import annotations

from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.service.ops.figures import EngineState, ServiceInfo, ServiceStats
from edge_runtime.service.ops.health import Heartbeat, Phase, Readiness
from edge_runtime.telemetry.conditions import ActivePowerMode, Conditions
from edge_runtime.telemetry.power.base import MeterInfo

INFO = ServiceInfo(
    model_name='tiny "moe"', family="qwen3_moe", num_layers=24, num_experts=64, top_k=8, tier=8, backend="cpu",
    version="0.1.0",
)  # fmt: skip


def counters() -> ExpertCounters:
    experts = ExpertCounters(
        bytes_read=5 << 20, read_busy_ns=20_000_000, stall_ns=1_500_000_000, substituted=3, skipped=2, route_changed=1,
        prefetch_issued=9, prefetch_used=4, prefetch_late=2, prefetch_wasted=1, evicted=6, truncated=5,
        fallbacks=4, predicted_kld=0.25,
    )  # fmt: skip
    by_outcome = ({8: 70, 4: 7}, {8: 2}, {8: 20, 4: 1})
    experts.set_lookups(*([totals.get(tier, 0) for tier in range(9)] for totals in by_outcome))
    experts.substituted_to = {4: 2, 2: 1}
    for nanoseconds in (50_000, 400_000, 3_000_000, 2_000_000_000):
        experts.count_read(nanoseconds)
    return experts


def view(num_layers: int = 24) -> EngineState:
    return EngineState(
        experts=counters(),
        residency={layer: {8: 3, 4: 1} for layer in range(num_layers)},
        cache_used_bytes=3 << 20,
        cache_bytes=4 << 20,
        kv_used_tokens=100,
        kv_tokens=400,
        policy={"name": "hobbit", "params": {"t1": 0.6}},
        budget_bytes=8 << 20,
        planned_bytes=7 << 20,
        choices={"trunk": "cpu", "memory": "registered"},
    )


class FakePower:
    """Has what figures read of a `PowerSampler`: one rail answers, one never did."""

    info = MeterInfo("ina", "INA3221 power monitors", ("VDD_IN", "VDD_SOC"), ("VDD_IN",), "the module")
    hz, idle_w = 10.0, 3.5

    def now(self) -> tuple[dict[str, float], dict[str, float]]:
        return {"VDD_IN": 5.917}, {"VDD_IN": 1234.5}


def conditions() -> Conditions:
    return Conditions({"cpu-thermal": 51.5}, {"cpu0": 1728000000}, {}, {"oc3": 3}, ActivePowerMode(1, "25W"))


def service(num_layers: int = 24, phase: Phase = Phase.READY) -> tuple[ServiceStats, Readiness, Heartbeat]:
    """A service that has answered a few requests."""
    stats, readiness, heartbeat = ServiceStats(), Readiness(), Heartbeat()
    readiness.set(phase)
    stats.engine = view(num_layers)
    stats.power, stats.conditions = FakePower(), conditions
    with stats.update() as figures:
        figures.running, figures.waiting = 2, 5
        figures.prompt_tokens, figures.cached_tokens, figures.generation_tokens, figures.steps = 700, 300, 90, 50
        figures.finished["stop"] = 4
        figures.finished["cancelled"] = 1
        figures.rejected["queue_full"] = 2
        for seconds in (0.03, 0.2, 0.7, 400.0):
            figures.time_to_first_token.observe(seconds)
            figures.inter_token_latency.observe(seconds / 10)
    return stats, readiness, heartbeat
