"""Experts of several tiers in one budget: prefixes are deepened and truncated, bytes are right, memory stays within."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed_cache import FULL, PAGE, SIZES, E, L, make, serve

from edge_runtime.base.errors import ExpertReadError
from edge_runtime.experts.eviction import RuleContext, create_rule
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.units import UnitLedger, UnitSizes


def test_sizes():
    assert (SIZES.max_planes, SIZES.full_bytes, SIZES.core_segments) == (2, 5 * PAGE, 2)
    assert [SIZES.planes(tier) for tier in (2, 4, 6, 8)] == [0, 0, 1, 2]
    assert UnitSizes(16, 16, PAGE).core_segments == 1


def test_only_the_prefix_is_read_and_deepening_reads_only_the_missing_planes():
    cache, store = make(10 * FULL)
    serve(cache, 0, e1=4)
    assert store.bytes_read == 3 * PAGE
    serve(cache, 0, e1=8)
    assert store.bytes_read == 5 * PAGE
    serve(cache, 0, e1=6, e2=6)
    assert store.bytes_read == 9 * PAGE
    counters = cache.counters
    assert (counters.hits, counters.misses, counters.upgrades) == (1, 3, 1)
    assert counters.by_tier == {2: 0, 4: 1, 6: 2, 8: 1}
    assert cache.resident_tiers(0).tolist() == [0, 8, 6, 0, 0, 0, 0, 0]


def test_a_core_is_made_room_for_by_evicting_and_planes_by_truncating():
    """So that memory seldom moves between the two sizes; the coldest go first either way."""
    cache, _ = make(4 * FULL)
    for expert in range(4):
        serve(cache, 0, **{f"e{expert}": 8})
    serve(cache, 1, e0=4)  # a core of three pages: the coldest goes, and two pages are left over
    assert cache.resident_tiers(0)[:4].tolist() == [0, 8, 8, 8]
    serve(cache, 1, e1=4)  # another one: four pages are left over
    assert cache.resident_tiers(0)[:4].tolist() == [0, 0, 8, 8]
    assert (cache.counters.truncated, cache.counters.evicted) == (0, 2)
    serve(cache, 1, e2=4)  # there is room, if memory of planes becomes that of a core
    serve(cache, 1, e0=8)  # two planes, and one page is left: the coldest loses a plane
    assert cache.resident_tiers(0)[:4].tolist() == [0, 0, 6, 8]
    assert (cache.counters.truncated, cache.counters.evicted) == (1, 2)


def traffic(rule: str) -> tuple[float, int]:
    """Experts of 300 KiB asked for at two tiers; return the least share of memory in use, and units that changed size."""
    sizes, rng, num_layers, num_experts = UnitSizes(4, 8, 45 * PAGE, 15 * PAGE), np.random.default_rng(1), 4, 32
    ledger = UnitLedger(sizes, 40 * sizes.full_bytes, num_layers * num_experts)
    table = Residents(
        ledger, create_rule(rule, RuleContext(num_layers, num_experts, {4: 45, 6: 60, 8: 75}, 8, 4)),
        num_layers=num_layers, num_experts=num_experts,
    ).table  # fmt: skip
    odds = rng.dirichlet(np.full(num_experts, 0.3), num_layers)
    least, moved = 1.0, 0
    for number in range(400):
        for layer, chances in enumerate(odds):
            tiers = np.zeros(num_experts, np.uint8)
            tiers[rng.choice(num_experts, 4, p=0.9 * chances + 0.1 / num_experts, replace=False)] = (8, 8, 4, 4)
            table.note_use(layer, tiers, None)
            table.serve_instantly(layer, tiers, lambda slots: [*map(table.set_ready, slots)])
            if number >= 200:
                moved += len(ledger.drain_discards())
                least = min(least, ledger.used_bytes / ledger.budget_bytes)
            ledger.drain_discards()
    return least, moved


def test_memory_is_used_whole_and_seldom_changes_its_size():
    least, moved = traffic("next-use")
    assert least > 0.95
    assert moved < 16, "of 3,200 uses"


def test_planes_and_cores_go_in_one_order_of_value():
    """At a price of 1 nat a byte scores are capped at 0.3: an expert used u times has 0.3 u, its planes 0.12 u, 0.04 u."""
    cache, _ = make(4 * FULL, "rate-distortion:half_life=1000000")
    for expert, uses in enumerate((1, 4, 4, 9)):
        for _ in range(uses):
            cache.begin_pass()
            serve(cache, 0, **{f"e{expert}": 8})
            cache.end_pass()
    serve(cache, 1, e0=4)  # three pages: 0.04 of expert 0, then 0.12 of it, then 0.16 (the last plane of expert 1)
    assert cache.resident_tiers(0)[:4].tolist() == [4, 6, 8, 8]
    serve(
        cache, 1, e1=4
    )  # three more: 0.16 of expert 2, then the core of expert 0 (0.3) before planes of 0.36 and 0.48
    assert cache.resident_tiers(0)[:4].tolist() == [0, 6, 6, 8]
    assert (cache.counters.truncated, cache.counters.evicted) == (4, 1)


def test_memory_moves_between_the_sizes_by_giving_pages_back():
    ledger = UnitLedger(SIZES, 2 * FULL, 100)
    cores = [ledger.take_core() for _ in range(3)]
    for core in cores:
        ledger.free_core(core)
    assert ledger.touched_bytes == 9 * PAGE
    planes = [ledger.take_plane() for _ in range(2)]
    assert ledger.drain_discards() == [(False, cores[2])]
    assert ledger.touched_bytes <= ledger.budget_bytes
    assert ledger.used_bytes == len(planes) * PAGE


def test_a_failed_upgrade_leaves_the_lower_tier_usable():
    cache, store = make(4 * FULL)
    serve(cache, 0, e1=4)
    store.fails = lambda key: True
    with pytest.raises(ExpertReadError):
        serve(cache, 0, e1=8)
    store.fails = lambda key: False
    cache.begin_request()
    assert cache.resident_tiers(0)[1] == 4
    reads = store.reads
    serve(cache, 0, e1=4)
    assert store.reads == reads
    serve(cache, 0, e1=8)


def test_a_read_begun_for_a_lower_tier_is_deepened_when_it_lands():
    cache, store = make(4 * FULL, latency=lambda key: 4)
    assert cache.prefetch(0, [3], np.full(E, 4, np.uint8)) == 1
    serve(cache, 0, e3=8)
    assert store.bytes_read == 5 * PAGE
    assert (cache.counters.late, cache.counters.prefetch_late) == (1, 1)


def test_masked_experts_go_last_until_their_layer_ran():
    cache, _ = make(2 * FULL)
    serve(cache, 1, e0=8)
    serve(cache, 1, e1=8)
    cache.mask(1, [0])
    serve(cache, 0, e5=8)
    assert cache.resident_tiers(1)[0] > 0
    serve(cache, 1, e0=4)
    cache.begin_request()
    serve(cache, 0, e6=8, e7=8)
    assert cache.resident_tiers(1)[0] == 0


def test_resizing_keeps_bytes():
    cache, store = make(6 * FULL)
    for expert in range(6):
        serve(cache, 0, **{f"e{expert}": 8 if expert % 2 else 6})
    cache.resize(2)
    assert cache.residents.ledger.touched_bytes <= 2 * FULL
    kept = cache.resident_tiers(0).copy()
    assert kept.any()
    reads = store.reads
    serve(cache, 0, **{f"e{e}": int(kept[e]) for e in np.flatnonzero(kept)})
    assert store.reads == reads
    cache.resize(9)
    serve(cache, 0, **{f"e{e}": int(kept[e]) for e in np.flatnonzero(kept)})
    assert store.reads == reads
    serve(cache, 1, **{f"e{e}": 8 for e in range(6)})


steps = st.lists(
    st.tuples(
        st.integers(0, L - 1),
        st.dictionaries(st.integers(0, E - 1), st.sampled_from([4, 6, 8]), max_size=E),
        st.sampled_from(["", "", "prefetch", "fail", "resize", "lend"]),
    ),
    max_size=15,
)


@settings(max_examples=200, deadline=None)
@given(
    slots=st.integers(1, L * E),
    rule=st.sampled_from(["lru", "lcu", "rate-distortion", "layer-sizes"]),
    seed=st.integers(0, 99),
    history=steps,
)
def test_every_expert_once_at_its_tier_with_the_right_bytes(slots, rule, seed, history):
    cache, store = make(slots * FULL, rule, latency=lambda key: (key.expert_idx * 7 + key.layer_idx + seed) % 5)
    for layer, wanted, event in history:
        cache.begin_pass()
        store.fails = lambda key, layer=layer, event=event: event == "fail" and key.layer_idx == layer
        if event == "prefetch":
            cache.prefetch((layer + 1) % L, sorted(wanted), np.full(E, 4 + 2 * (seed % 3), np.uint8))
        try:
            serve(cache, layer, **{f"e{expert}": tier for expert, tier in sorted(wanted.items())})
        except ExpertReadError:
            assert event == "fail"
        cache.end_pass()
        assert cache.residents.table.num_pinned == 0
        if event == "resize":
            cache.begin_request()
            slots = 1 + (slots + len(wanted)) % (L * E)
            cache.resize(slots)
        if event == "lend":
            cache.borrow(min((seed + len(wanted)) % 5, L * E - slots))
        ledger = cache.residents.ledger
        assert ledger.used_bytes <= ledger.touched_bytes <= ledger.budget_bytes
        if not cache.residents.table.num_reading:
            held = sum(
                SIZES.core_bytes + SIZES.planes(int(tier)) * PAGE
                for one in range(L)
                for tier in cache.resident_tiers(one)
                if tier
            )
            assert held == ledger.used_bytes
    cache.close()
