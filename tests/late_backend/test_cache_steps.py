"""The expert cache over a scripted drive and late memory: the order of single steps, where a whole model needs luck."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fakes import FakeStore, record_of

from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.eviction import RuleContext, create_rule
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.store.base import ExpertKey
from edge_runtime.experts.stream import ReadyBatch
from edge_runtime.experts.units import UnitLedger, UnitSizes
from late_backend.device import Device
from late_backend.memory import DeviceMemory, LateSpace

PAGE, L, E, READS = 4096, 3, 8, 4
SIZES = UnitSizes(4, 8, 4 * PAGE, core_offsets=(0, PAGE, 2 * PAGE, 3 * PAGE))
"""Whole slots with room for four segments; tier 4 needs two of them."""


class Late:
    """A cache on a late device, and kernels that only check the bytes they were promised."""

    def __init__(self, slots: int, **script: Any) -> None:
        self.device = Device("late")
        self.memory = DeviceMemory(self.device)
        self.space = LateSpace(self.device, self.memory, 4 * PAGE, READS)
        ledger = UnitLedger(SIZES, slots * 4 * PAGE, L * E)
        rule = create_rule("lru", RuleContext(num_layers=L, num_experts=E, tier_bytes={4: 1, 8: 2}, full_tier=8))
        residents = Residents(ledger, rule, num_layers=L, num_experts=E)
        self.store = FakeStore(1 << 30, **script)
        self.cache = ExpertCache(residents, ExpertMemory(self.space, ledger), self.store)
        self.seen: list[tuple[int, int]] = []

    def compute(self, layer: int, batch: ReadyBatch) -> None:
        """Queue kernels over a batch."""
        segments = batch.segments[:, : batch.tier // 2].copy()
        experts = batch.experts.tolist()

        def run() -> None:
            for expert, addresses in zip(experts, segments, strict=True):
                for number, address in enumerate(addresses.tolist()):
                    found = ctypes.string_at(self.memory.real(address, PAGE), PAGE)
                    assert is_segment_of(ExpertKey(layer, expert), number, found), (layer, expert, number)
                self.seen.append((layer, expert))

        self.memory.push_kernels("kernels", segments, run)

    def serve(self, layer: int, *experts: int, tier: int = 8) -> list[list[int]]:
        """Compute a layer; return its batches."""
        batches = []
        for batch in self.cache.stream(layer, tiers(*experts, tier=tier)):
            self.compute(layer, batch)
            batches.append(batch.experts.tolist())
        return batches


def is_segment_of(key: ExpertKey, number: int, found: bytes) -> bool:
    """Whether these are the bytes of a segment, which may have come with the deeper half alone."""
    return found == record_of(key, PAGE) or (number >= 2 and found == record_of(key, PAGE, 2))


def tiers(*experts: int, tier: int = 8) -> np.ndarray:
    out = np.zeros(E, np.uint8)
    out[list(experts)] = tier
    return out


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[Late] = []

    def make(slots: int, **script: Any) -> Late:
        made.append(Late(slots, **script))
        return made[-1]

    yield make
    for late in made:
        late.device.finish()
        late.cache.close()
        late.device.close()
        assert late.memory.nbytes == 0
        assert late.space.transfers.room == READS


def test_a_wave_waits_for_the_kernels_of_the_one_before(make):
    late = make(3)
    batches = late.serve(0, *range(8))
    assert sorted(e for batch in batches for e in batch) == list(range(8))
    late.device.finish()
    assert sorted(late.seen) == [(0, e) for e in range(8)]


def test_a_slot_needed_again_is_kept_although_earlier_work_in_it_is_over(make):
    late = make(2)
    late.serve(0, 3)
    late.cache.begin_pass()
    stream = late.cache.stream(0, tiers(3, 4, 5))  # 4 gets the free slot
    late.device.finish()  # what read expert 3 in the pass before is over
    for batch in stream:
        late.compute(0, batch)
    late.device.finish()
    assert sorted(late.seen) == [(0, 3), (0, 3), (0, 4), (0, 5)]


def test_a_deeper_read_of_a_slot_in_use_keeps_it(make):
    late = make(2)
    late.serve(0, 3, tier=4)
    late.cache.begin_pass()
    stream = late.cache.stream(0, tiers(3, 4, 5))
    late.device.finish()
    for batch in stream:
        late.compute(0, batch)
    late.device.finish()
    assert sorted(late.seen) == [(0, 3), (0, 3), (0, 4), (0, 5)]


def test_a_read_ahead_that_is_cancelled_gives_its_buffer_back(make):
    late = make(8, latency=lambda key: 5)
    assert late.cache.prefetch(1, [2, 3], tiers(2, 3)) == 2
    assert late.space.transfers.room == READS - 2
    assert late.serve(1, 2) == [[2]]
    assert late.space.transfers.room == READS
    assert late.cache.counters.prefetch_wasted == 1


def test_reads_wait_for_a_staging_buffer(make):
    late = make(8, latency=lambda key: 1 + key.expert_idx)
    assert late.cache.prefetch(2, [0, 1, 2, 3, 4, 5], tiers(*range(6))) == READS
    assert late.cache.prefetch(1, [0], tiers(0)) == 0
    assert late.serve(0, 6, 7) in ([[6], [7]], [[6, 7]])
    late.device.finish()
    assert sorted(late.seen) == [(0, 6), (0, 7)]


def test_what_is_read_is_not_ready_before_its_transfer_is_over(make):
    late = make(4)
    assert late.cache.prefetch(0, [1], tiers(1)) == 1
    late.store.now += 10
    for _ in range(3):  # the read is over, the device does nothing by itself
        late.cache.prefetch(1, [], tiers())
        assert late.cache.resident_tiers(0)[1] == 0
    assert late.cache.num_reading
    assert late.serve(0, 1) == [[1]]
    assert late.cache.counters.late == 1
