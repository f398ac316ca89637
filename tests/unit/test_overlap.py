"""Experts in memory are computed while others are read, or, if that is switched off, once all have been read."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeStore

from edge_runtime.backends.cpu.space import HostSpace
from edge_runtime.base.errors import ExpertReadError
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.eviction import RuleContext, create_rule
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.units import UnitLedger, UnitSizes

PAGE, L, E, TIER = 4096, 2, 8, 4


def make(slots: int, *, overlaps: bool, **script) -> tuple[ExpertCache, FakeStore]:
    store = FakeStore(PAGE, **script)
    ledger = UnitLedger(UnitSizes(TIER, TIER, PAGE), slots * PAGE, L * E)
    rule = create_rule("lru", RuleContext(num_layers=L, num_experts=E, tier_bytes={4: 1}, full_tier=4))
    residents = Residents(ledger, rule, num_layers=L, num_experts=E)
    return ExpertCache(residents, ExpertMemory(HostSpace(), ledger), store, overlaps=overlaps), store


def tiers(*experts: int) -> np.ndarray:
    out = np.zeros(E, np.uint8)
    out[list(experts)] = TIER
    return out


def order(overlaps: bool, slots: int, latency=lambda key: 1 + key.expert_idx) -> list[tuple[list[int], int]]:
    """Batches of experts 0 to 5, of which 0 and 1 are resident, each with the reads that were over when it came."""
    cache, store = make(slots, overlaps=overlaps, latency=latency)
    for _ in cache.stream(0, tiers(0, 1)):
        pass
    before = store.reads
    found = [(batch.experts.tolist(), store.reads - before) for batch in cache.stream(0, tiers(*range(6)))]
    assert sorted(e for experts, _ in found for e in experts) == [*range(6)]
    return found


def test_overlapping_hands_out_residents_at_once():
    assert order(True, 8)[0] == ([0, 1], 0)


def test_without_overlap_everything_is_read_first():
    assert order(False, 8) == [([0, 1], 4), ([2, 3, 4, 5], 4)]


@pytest.mark.parametrize("overlaps", [True, False])
@pytest.mark.parametrize("slots", [2, 3, 4])
def test_more_experts_than_fit_come_in_waves_either_way(overlaps, slots):
    order(overlaps, slots)


@pytest.mark.parametrize("overlaps", [True, False])
def test_a_failing_read_releases_everything(overlaps):
    cache, _ = make(8, overlaps=overlaps, fails=lambda key: key.expert_idx == 3)
    with pytest.raises(ExpertReadError, match="scripted"):
        for _ in cache.stream(0, tiers(1, 2, 3)):
            pass
    assert cache.residents.table.num_pinned == 0
    assert not cache.num_reading
