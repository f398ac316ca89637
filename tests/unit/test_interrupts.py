"""Ctrl-C at any line of edge_runtime/experts: the next request is served right, at once, and nothing has leaked."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import interrupts
import numpy as np
import pytest
from fakes import FakeStore, record_of
from interrupts import Interrupt
from patience import PATIENCE_S

import edge_runtime.experts
from edge_runtime.backends.cpu.space import HostSpace
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.eviction import RuleContext, create_rule
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.store.base import ExpertKey, Priority
from edge_runtime.experts.units import UnitLedger, UnitSizes

FOLDER = str(Path(edge_runtime.experts.__file__).parent)
PAGE, L, E = 4096, 2, 8
SIZES = {
    "one tier": UnitSizes(4, 4, 3 * PAGE, core_offsets=(0, 2 * PAGE)),
    "tiers": UnitSizes(core_tier=4, full_tier=8, core_bytes=3 * PAGE, plane_bytes=PAGE, core_offsets=(0, 2 * PAGE)),
}
STEPS = [[(0, 1, 2), (1, 3, 5)], [(0, 2, 6), (4, 5, 7)], [(1, 2, 7), (3, 4, 6)]]


def interrupted(action, at: int) -> Interrupt:
    """Run something, interrupted at the n-th line run in edge_runtime/experts."""
    return interrupts.interrupted(action, at, lambda file: file.startswith(FOLDER))


def make(kind: str) -> tuple[ExpertCache, FakeStore]:
    sizes = SIZES[kind]
    store = FakeStore(1 << 30, latency=lambda key: 1 + key.expert_idx % 3)
    ledger = UnitLedger(sizes, 4 * sizes.full_bytes, L * E)
    rule = create_rule(
        "lru", RuleContext(num_layers=L, num_experts=E, tier_bytes={4: 3, 6: 4, 8: 5}, full_tier=sizes.full_tier)
    )
    memory = ExpertMemory(HostSpace(), ledger, block_bytes=4 * PAGE)
    return ExpertCache(
        Residents(ledger, rule, num_layers=L, num_experts=E), memory, store, read_timeout_s=PATIENCE_S
    ), store


def request(cache: ExpertCache, check=None) -> list[tuple[int, int, int]]:
    """A few passes with prefetches; return what was served: (layer, expert, tier)."""
    served = []
    cache.begin_request()
    cache.begin_sequence()
    for number, step in enumerate(STEPS):
        cache.begin_pass()
        for layer, experts in enumerate(step):
            wanted = np.zeros(E, np.uint8)
            for expert in experts:
                wanted[expert] = min(4 + 2 * ((expert + number) % 3), cache.residents.tier)
            stream = cache.stream(layer, wanted)
            ahead = np.full(E, cache.residents.tier, np.uint8)
            cache.prefetch(1 - layer, STEPS[(number + layer) % len(STEPS)][1 - layer][:2], ahead, Priority.NEXT)
            cache.mask(1 - layer, [0])
            for batch in stream:
                for expert, addresses in zip(batch.experts.tolist(), batch.segments.tolist(), strict=True):
                    if check is not None:
                        check(ExpertKey(layer, expert), batch.tier, addresses)
                    served.append((layer, expert, batch.tier))
        cache.end_pass()
    return sorted(served)


def check_record(key: ExpertKey, tier: int, addresses: list[int]) -> None:
    assert ctypes.string_at(addresses[0], 3 * PAGE) == record_of(key, 3 * PAGE)
    for segment in range(2, tier // 2):
        assert ctypes.string_at(addresses[segment], PAGE) == record_of(key, PAGE, segment)


def assert_nothing_leaked(cache: ExpertCache) -> None:
    cache.begin_request()
    table, ledger = cache.residents.table, cache.residents.ledger
    assert (table.num_pinned, table.num_reading, cache.num_reading) == (0, 0, 0)
    held = {
        slot: (expert, tier)
        for layer in range(L)
        for expert, (slot, tier) in enumerate(zip(table.slots_of(layer), table.resident_tiers(layer), strict=True))
        if slot >= 0
    }
    cores = sorted(held)
    planes = [unit for slot in range(table.num_slots) for unit in table.planes_of(slot)]
    assert len(cores) == table.num_resident == sum(int((table.slots_of(layer) >= 0).sum()) for layer in range(L))
    warm_cores, cold_cores, warm_planes, cold_planes = ledger.free_units()
    assert sorted([*cores, *warm_cores, *cold_cores]) == list(range(ledger.num_cores))
    assert sorted([*planes, *warm_planes, *cold_planes]) == list(range(ledger.plane_capacity(ledger.budget_bytes)))
    for slot, (expert, tier) in held.items():
        assert table.expert_in(slot) == expert
        assert len(table.planes_of(slot)) == ledger.sizes.planes(int(tier))
    assert ledger.touched_bytes <= ledger.budget_bytes
    assert not ledger.discards


@pytest.mark.parametrize("kind", list(SIZES))
def test_a_request_interrupted_at_any_line(kind):
    cache, _ = make(kind)
    lines = interrupted(lambda: request(cache), at=-1).count
    want = request(cache, check_record)
    assert lines > 1000
    for at in range(1, lines, 3):
        where = interrupted(lambda: request(cache), at).where
        started = time.monotonic()
        try:
            assert request(cache, check_record) == want
            assert_nothing_leaked(cache)
        except Exception as err:
            raise AssertionError(f"interrupted at {where}") from err
        assert time.monotonic() - started < PATIENCE_S, f"waited for a read that is over, {where}"
    cache.close()


@pytest.mark.parametrize("kind", list(SIZES))
def test_recovery_interrupted_at_any_line(kind):
    cache, _ = make(kind)
    want = request(cache, check_record)
    for at in range(40, 1200, 97):
        for again in range(1, 120, 2):
            where = interrupted(lambda: request(cache), at + again % 7).where
            where += ", then " + interrupted(cache.begin_request, again).where
            try:
                assert request(cache, check_record) == want
                assert_nothing_leaked(cache)
            except Exception as err:
                raise AssertionError(f"interrupted at {where}") from err
    cache.close()


@pytest.mark.parametrize("kind", list(SIZES))
@pytest.mark.parametrize("slots", [2, 6])
def test_resizing_interrupted_at_any_line(kind, slots):
    at, count = 0, 1
    while at < count:
        at += 2
        cache, _ = make(kind)
        want = request(cache)
        tracer = interrupted(lambda cache=cache: cache.resize(slots), at)
        count = tracer.count if tracer.where else 0
        try:
            assert request(cache, check_record) == want
            assert_nothing_leaked(cache)
            assert cache.num_slots in (4, slots)
            cache.resize(3)
            assert request(cache, check_record) == want
        except Exception as err:
            raise AssertionError(f"interrupted at {tracer.where}") from err
        count = at + 1 if tracer.where else 0
        cache.close()
