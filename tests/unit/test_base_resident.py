"""Every expert in memory at its lowest tier: read before anything runs, never given up, deepened and truncated above."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed_cache import FULL, PAGE, SIZES, E, L, make, serve

from edge_runtime.base.base_slots import base_slots
from edge_runtime.base.errors import ExpertReadError
from edge_runtime.experts.store.base import ExpertKey, Priority

ALL = L * E
PLANES = 9  # beyond the base
BUDGET = ALL * SIZES.core_bytes + PLANES * PAGE
RULES = ("lru", "lfru", "lcu", "next-use", "rate-distortion")


def tiers_of(cache) -> np.ndarray:
    return np.stack([cache.resident_tiers(layer) for layer in range(L)])


def opened(rule: str = "lru", budget: int = BUDGET, **script):
    cache, store = make(budget, rule, base=True, **script)
    cache.begin_request()
    return cache, store


def test_it_is_read_before_anything_runs_and_no_use_of_it_is_a_miss():
    cache, store = opened()
    assert (tiers_of(cache) == 4).all()
    assert store.bytes_read == ALL * SIZES.core_bytes
    for layer in range(L):
        serve(cache, layer, **{f"e{expert}": 4 for expert in range(E)})
    assert (cache.counters.hits, cache.counters.misses) == (ALL, 0)
    cache.begin_request()
    assert store.bytes_read == ALL * SIZES.core_bytes, "it is read once"
    assert cache.residents.table.num_pinned == 0


@pytest.mark.parametrize("rule", RULES)
def test_planes_alone_make_room(rule):
    cache, _ = opened(rule)
    for expert in range(4):
        serve(cache, 0, **{f"e{expert}": 8})
    assert (tiers_of(cache)[0][:4] == 8).all()
    serve(cache, 1, e0=8, e1=6)  # three planes, of which one is free
    assert tiers_of(cache)[1][:2].tolist() == [8, 6]
    assert (tiers_of(cache) >= 4).all()
    assert (cache.counters.evicted, cache.counters.truncated) == (0, 2)
    assert cache.residents.ledger.used_bytes == BUDGET, "nothing is held back: planes alone come and go"


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(RULES), st.data())
def test_whatever_is_asked_for_the_base_stays_and_memory_stays_within_its_budget(rule, data):
    cache, _ = opened(rule)
    ledger = cache.residents.ledger
    for _ in range(data.draw(st.integers(1, 12))):
        layer = data.draw(st.integers(0, L - 1))
        wanted = data.draw(st.dictionaries(st.integers(0, E - 1), st.sampled_from([4, 6, 8]), min_size=1, max_size=4))
        if data.draw(st.booleans()):
            tiers = np.zeros(E, np.uint8)
            tiers[[*wanted]] = [*wanted.values()]
            cache.prefetch(layer, [*wanted], tiers, Priority.SPECULATIVE)
        else:
            serve(cache, layer, **{f"e{expert}": tier for expert, tier in wanted.items()})
        assert (tiers_of(cache) >= 4).all()
        assert ledger.used_bytes <= BUDGET
        assert ledger.touched_bytes <= BUDGET
    assert cache.counters.evicted == 0


def test_what_is_deepened_in_the_background_serves_at_its_tier_until_then():
    cache, store = opened(latency=lambda key: 5)
    tiers = np.full(E, 8, np.uint8)
    assert cache.prefetch(0, [3], tiers, Priority.SPECULATIVE) == 1
    before = store.bytes_read
    serve(cache, 0, e3=4)
    assert (cache.counters.misses, cache.counters.late) == (0, 0), "the base does not wait for its planes"
    store.now += 5
    serve(cache, 0, e3=8)  # landed, and nobody has looked yet
    assert (cache.counters.hits, cache.counters.late, store.bytes_read - before) == (2, 0, 2 * PAGE)


def test_less_memory_takes_planes_and_more_brings_the_room_back():
    cache, _ = opened(budget=ALL * FULL)
    for layer in range(L):
        serve(cache, layer, **{f"e{expert}": 8 for expert in range(E)})
    least = base_slots(FULL, SIZES.core_bytes, all_experts=ALL, top_k=2)
    cache.resize(least)
    assert (tiers_of(cache) >= 4).all()
    serve(cache, 1, e0=8, e1=8)
    cache.resize(ALL)
    serve(cache, 2, **{f"e{expert}": 8 for expert in range(E)})
    assert (tiers_of(cache) >= 4).all()
    assert cache.counters.evicted == 0


def test_the_least_memory_holds_the_base_and_one_layers_token():
    """24 cores of three pages and two experts of two planes more: 76 pages, 16 experts of five."""
    assert base_slots(FULL, SIZES.core_bytes, all_experts=ALL, top_k=2) == 16
    assert base_slots(FULL, FULL, all_experts=ALL, top_k=2) == ALL, "whole cores: all or nothing"


def test_a_base_that_cannot_be_read_is_an_error_and_is_read_again():
    broken = {ExpertKey(1, 5)}
    cache, _ = make(BUDGET, base=True, fails=lambda key: key in broken)
    with pytest.raises(ExpertReadError):
        cache.begin_request()
    broken.clear()
    cache.begin_request()
    assert (tiers_of(cache) == 4).all()
    stuck, _ = make(BUDGET, base=True, stuck=lambda key: key == ExpertKey(2, 0))
    with pytest.raises(ExpertReadError, match=r"none of 1 reads finished .* lowest tier"):
        stuck.begin_request()


def test_other_residents_begin_with_their_base():
    cache, store = opened()
    fresh, _ = make(BUDGET, base=True)
    serve(cache, 0, e0=8)
    cache.start_over(fresh.residents)
    assert (tiers_of(cache) == 4).all()
    assert store.bytes_read == 2 * ALL * SIZES.core_bytes + 2 * PAGE
