"""A cache over cores of two segments and two planes, and a layer served from it with every byte checked."""

from __future__ import annotations

import ctypes

import numpy as np
from fakes import FakeStore, record_of
from patience import PATIENCE_S

from edge_runtime.backends.cpu.space import HostSpace
from edge_runtime.bundle.calibration import ExpertCalibration, LayerCalibration, Sensitivity
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.eviction import RuleContext, create_rule
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.store.base import ExpertKey
from edge_runtime.experts.units import UnitLedger, UnitSizes

PAGE, L, E = 4096, 3, 8
SIZES = UnitSizes(
    core_tier=4, full_tier=8, core_bytes=3 * PAGE, plane_bytes=PAGE, core_offsets=(0, 2 * PAGE)
)  # core: two segments
FULL = SIZES.full_bytes
# a skip costs 3.16 nats a use, tiers 4, 6 and 8 cost 0.16, 0.04 and 0: a core saves 1 a byte, the planes 0.12 and 0.04
ERRORS = {"4": [0.4] * E, "6": [0.2] * E, "8": [0.0] * E}
CALIBRATION = ExpertCalibration(
    2,
    [LayerCalibration(i, {}, [1] * E, ERRORS, [1.0] * E, Sensitivity(1.0, 3.16, 1.0), [1.0] * E) for i in range(L)],
    tokens=8, full_tier=8, score_quantiles=[], checks=[],
)  # fmt: skip


def make(budget: int, rule: str = "lru", *, base: bool = False, **script) -> tuple[ExpertCache, FakeStore]:
    store = FakeStore(1 << 30, **script)
    ledger = UnitLedger(SIZES, budget, L * E)
    eviction = create_rule(
        rule,
        RuleContext(
            num_layers=L,
            num_experts=E,
            tier_bytes={4: 3, 6: 4, 8: 5},
            full_tier=8,
            top_k=2,
            capacity=budget // FULL,
            calibration=CALIBRATION,
            price=lambda: 1.0,
        ),
    )
    memory = ExpertMemory(HostSpace(), ledger, block_bytes=4 * PAGE)
    wait_s = 0.05 if "stuck" in script else PATIENCE_S
    residents = Residents(ledger, eviction, num_layers=L, num_experts=E, base_layers=range(L) if base else ())
    return ExpertCache(residents, memory, store, read_timeout_s=wait_s), store


def serve(cache: ExpertCache, layer: int, **tiers: int) -> dict[int, int]:
    """Stream a layer (e3=8: expert 3 at tier 8), check the bytes of every segment served; return expert -> tier."""
    wanted = np.zeros(E, np.uint8)
    for name, tier in tiers.items():
        wanted[int(name[1:])] = tier
    seen = {}
    for batch in cache.stream(layer, wanted):
        for expert, addresses in zip(batch.experts.tolist(), batch.segments.tolist(), strict=True):
            key = ExpertKey(layer, expert)
            whole = record_of(key, 3 * PAGE)
            assert ctypes.string_at(addresses[0], 3 * PAGE) == whole
            for segment in range(2, batch.tier // 2):
                assert ctypes.string_at(addresses[segment], PAGE) == record_of(key, PAGE, segment)
            assert expert not in seen
            seen[expert] = batch.tier
        assert cache.residents.ledger.touched_bytes <= cache.residents.ledger.budget_bytes
    assert seen == {int(name[1:]): tier for name, tier in tiers.items()}
    return seen
