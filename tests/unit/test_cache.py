"""ExpertCache over a scripted drive: every expert once, right bytes, clean after errors."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from fakes import FakeStore, record_of
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import PATIENCE_S

from edge_runtime.backends.cpu.space import HostSpace
from edge_runtime.base.errors import ExpertReadError
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.eviction import RuleContext, create_rule
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.store.base import ExpertKey, Priority
from edge_runtime.experts.units import UnitLedger, UnitSizes
from edge_runtime.policy.base import Decision

PAGE, L, E, TIER = 4096, 3, 8, 4


def make(slots: int, rule: str = "lru", **script) -> tuple[ExpertCache, FakeStore]:
    store = FakeStore(2 * PAGE, **script)
    ledger = UnitLedger(UnitSizes(TIER, TIER, 2 * PAGE, core_offsets=(0, PAGE)), slots * 2 * PAGE, L * E)
    memory = ExpertMemory(HostSpace(), ledger, block_bytes=3 * PAGE)
    eviction = create_rule(rule, RuleContext(num_layers=L, num_experts=E, tier_bytes={4: 1}, full_tier=4))
    wait_s = 0.05 if "stuck" in script else PATIENCE_S
    cache = ExpertCache(Residents(ledger, eviction, num_layers=L, num_experts=E), memory, store, read_timeout_s=wait_s)
    return cache, store


def tiers(*experts: int) -> np.ndarray:
    out = np.zeros(E, np.uint8)
    out[list(experts)] = TIER
    return out


def serve(cache: ExpertCache, layer: int, *experts: int) -> list[list[int]]:
    """Stream a layer, checking the bytes behind every address; return the batches."""
    batches = []
    for batch in cache.stream(layer, tiers(*experts)):
        assert batch.experts.dtype == np.int32
        assert batch.tier == TIER
        assert batch.segments.dtype == np.uint64
        assert batch.segments.shape == (len(batch.experts), 4)
        for expert, addresses in zip(batch.experts.tolist(), batch.segments.tolist(), strict=True):
            expected = record_of(ExpertKey(layer, expert), PAGE)
            assert [ctypes.string_at(address, PAGE) for address in addresses[:2]] == [expected, expected]
            assert addresses[2:] == [0, 0]
        batches.append(batch.experts.tolist())
    return batches


def served(batches: list[list[int]]) -> list[int]:
    return sorted(expert for batch in batches for expert in batch)


def test_residents_come_first_and_misses_are_read_together():
    cache, store = make(8, latency=lambda key: key.expert_idx)
    assert serve(cache, 0, 5, 2) == [[2], [5]]
    submitted = len(store.submitted)
    stream = cache.stream(0, tiers(1, 2, 5, 7))
    assert [key.expert_idx for key, _ in store.submitted[submitted:]] == [1, 7]
    assert [batch.experts.tolist() for batch in stream] == [[2, 5], [1], [7]]
    counters = cache.counters
    assert (counters.hits, counters.late, counters.misses, counters.evicted) == (2, 0, 4, 0)
    assert counters.bytes_read == 4 * 2 * PAGE
    assert counters.stall_ns > 0


def test_a_union_larger_than_the_slots_comes_in_waves():
    cache, _ = make(3)
    serve(cache, 1, 0, 1, 2)
    assert served(serve(cache, 1, *range(8))) == list(range(8))
    assert cache.counters.hits == 3


def test_everything_fits_after_first_touch():
    cache, store = make(L * E)
    assert cache.fits_all
    serve(cache, 2, 3, 4)
    assert serve(cache, 2, 3, 4) == [[3, 4]]
    assert len(store.submitted) == 2
    assert serve(cache, 2) == []
    for layer in range(L):
        serve(cache, layer, *range(E))
    requests = store.requests
    cache.begin_request()
    assert store.requests == requests, "a complete cache needs no file"


@pytest.mark.parametrize("rule", ["lru", "next-use"])
@pytest.mark.parametrize("by_backend", [False, True])
def test_what_was_used_while_everything_fitted_stays_when_it_no_longer_does(rule, by_backend):
    cache, _ = make(L * E, rule)
    cache.residents.may_shrink = True
    for layer in range(L):
        serve(cache, layer, *range(E))
    used = {0: [1, 6], 1: [3, 4], 2: [2, 7]}
    for _ in range(20):
        cache.begin_pass()
        for layer, experts in used.items():
            if by_backend:
                cache.residents.count_hits(layer, np.array(experts, np.int32))
            else:
                assert cache.take_resident(layer, tiers(*experts)) is not None
        cache.end_pass()
    cache.resize(6)
    assert {layer: np.flatnonzero(cache.resident_tiers(layer)).tolist() for layer in used} == used


def test_where_everything_fits_the_rule_is_told_of_some_tokens_and_of_all_where_it_does_not():
    """Of whole passes, begun and used: rates of use stay those of a token."""
    cache, _ = make(L * E, "next-use")
    cache.residents.may_shrink = True
    for layer in range(L):
        serve(cache, layer, *range(E))
    rule = cache.residents.rule
    told: list[str] = []
    rule.begin_pass = lambda: told.append("begin")  # type: ignore[method-assign]
    rule.use = lambda keys, tiers: told.append("use")  # type: ignore[method-assign]

    def passes(count: int) -> None:
        for _ in range(count):
            cache.begin_pass()
            for layer in range(L):
                assert cache.take_resident(layer, tiers(1)) is not None
            cache.end_pass()

    passes(40)
    assert told == (["begin"] + ["use"] * L) * 5
    told.clear()
    cache.residents.keep_without_ahead(wanted=True)  # it goes through every pass
    passes(3)
    assert told == (["begin"] + ["use"] * L) * 3
    cache.residents.keep_without_ahead(wanted=False)
    cache.resize(L * E - 1)
    told.clear()
    cache.begin_pass()
    for _ in cache.stream(0, tiers(1)):
        pass
    assert told == ["begin", "use"]


def test_prefetched_experts_are_late_then_hits():
    cache, store = make(4, latency=lambda key: 5)
    assert cache.prefetch(1, [2, 3], tiers(2, 3)) == 2
    assert cache.prefetch(1, [2], tiers(2)) == 0
    assert serve(cache, 1, 2, 3) == [[2, 3]]
    assert serve(cache, 1, 3) == [[3]]
    c = cache.counters
    assert (c.hits, c.late, c.misses) == (1, 2, 0)
    assert (c.prefetch_issued, c.prefetch_used, c.prefetch_late, c.prefetch_wasted) == (2, 0, 2, 0)
    assert store.submitted[-2:] == [(ExpertKey(1, 2), Priority.NOW), (ExpertKey(1, 3), Priority.NOW)]


def test_a_wrong_read_ahead_is_cancelled_when_its_layer_chooses():
    cache, store = make(4, latency=lambda key: 5)
    cache.prefetch(1, [2, 3], tiers(2, 3))
    cache.prefetch(2, [0], tiers(0))
    assert serve(cache, 1, 2) == [[2]]
    assert [ticket.key for ticket in store.outstanding()] == []
    c = cache.counters
    assert (c.prefetch_issued, c.prefetch_used, c.prefetch_late, c.prefetch_wasted) == (3, 0, 1, 1)
    assert store.reads == 2
    assert serve(cache, 1, 3) == [[3]]
    assert serve(cache, 2, 0) == [[0]]
    c = cache.counters
    assert (c.hits, c.late, c.misses) == (1, 1, 1)


def test_a_read_in_the_background_is_not_cancelled():
    cache, _ = make(4, latency=lambda key: 5)
    cache.prefetch(1, [3], tiers(3), Priority.SPECULATIVE)
    serve(cache, 1, 2)
    assert serve(cache, 1, 3) == [[3]]
    assert cache.counters.prefetch_wasted == 0


def test_an_expert_wanted_while_its_cancelled_read_ends_is_read_again():
    cache, store = make(4, latency=lambda key: 1 + 4 * key.expert_idx)
    store.cuts = True
    cache.prefetch(1, [3], tiers(3))
    assert serve(cache, 1, 0) == [[0]]  # 3 is given up, part of it is under way
    assert [ticket.key for ticket in store.outstanding()] == [(1, 3)]
    assert serve(cache, 1, 3) == [[3]]
    assert [key.expert_idx for key, priority in store.submitted] == [3, 0, 3, 3]  # ahead, 0, waited for, again
    c = cache.counters
    assert (c.late, c.prefetch_late, c.prefetch_wasted) == (1, 1, 0)


def test_a_failed_read_leaves_everything_clean():
    cache, store = make(4, fails=lambda key: key.expert_idx == 3, latency=lambda key: 1 + key.expert_idx)
    serve(cache, 0, 1)
    with pytest.raises(ExpertReadError, match="layer 0, expert 3"):
        serve(cache, 0, 1, 2, 3, 7)
    assert_clean(cache)
    store.fails = lambda key: False
    cache.begin_request()
    assert served(serve(cache, 0, 1, 2, 3, 7)) == [1, 2, 3, 7]


def test_a_read_that_never_ends_is_an_error_and_keeps_its_slot_until_it_does():
    cache, store = make(2, stuck=lambda key: key.expert_idx == 6)
    with pytest.raises(ExpertReadError, match="none did"):
        serve(cache, 0, 6)
    with pytest.raises(ExpertReadError, match="have not returned"):
        cache.begin_request()
    store.stuck = lambda key: False
    cache.begin_request()
    assert_clean(cache)
    assert serve(cache, 0, 6) == [[6]]


def test_the_next_request_closes_an_abandoned_stream():
    cache, _ = make(4, latency=lambda key: 3)
    cache.begin_pass()
    stream = cache.stream(0, tiers(0, 1, 2))
    next(stream)
    cache.begin_request()
    assert_clean(cache)
    assert list(stream) == []
    cache.begin_pass()
    assert served(serve(cache, 0, 0, 1, 2)) == [0, 1, 2]
    cache.end_pass()


def test_resizing_keeps_the_best_and_the_bytes():
    cache, store = make(6)
    for expert in range(6):
        serve(cache, 0, expert)
    cache.resize(2)
    reads = store.reads
    assert cache.num_slots == 2
    assert serve(cache, 0, 4, 5) == [[4, 5]]
    assert store.reads == reads
    cache.resize(L * E)
    assert serve(cache, 0, 4, 5) == [[4, 5]]
    assert served(serve(cache, 0, 0, 4)) == [0, 4]


def test_close_twice():
    cache, store = make(2)
    serve(cache, 0, 1)
    cache.close()
    cache.close()
    assert store.is_closed


def test_counters_to_json():
    cache, _ = make(4)
    before = cache.counters
    assert before.to_json()["read_gbps"] is None
    assert before.to_json()["bytes_per_token"] is None
    serve(cache, 0, 1, 2)
    decision = Decision(np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32), tiers(), 1, 2, 3)
    cache.residents.add_decisions([decision])
    middle = cache.counters
    serve(cache, 0, 1)
    found = middle.since(before).to_json(2)
    assert found["lookups"] == found["misses"] == 2
    assert found["bytes_per_token"] == 2 * PAGE
    assert found["by_tier"] == {"2": 0, "4": 2, "6": 0, "8": 0}
    assert (found["substituted"], found["skipped"], found["route_changed"]) == (1, 2, 3)
    assert found["prefetch"] == {"issued": 0, "used": 0, "late": 0, "wasted": 0}
    assert (found["evicted"], found["truncated"]) == (0, 0)
    assert cache.counters.since(middle).hits == 1


def assert_clean(cache: ExpertCache) -> None:
    table = cache.residents.table
    assert (table.num_pinned, table.num_reading, cache.num_reading) == (0, 0, 0)
    assert table.num_resident <= table.num_slots


requests = st.lists(
    st.tuples(
        st.integers(0, L - 1), st.sets(st.integers(0, E - 1)), st.sampled_from(["", "prefetch", "leave", "fail"])
    ),
    max_size=20,
)


@settings(max_examples=150, deadline=None)
@given(slots=st.integers(1, L * E), rule=st.sampled_from(["lru", "lcu"]), seed=st.integers(0, 99), stream=requests)
def test_every_expert_once_with_the_right_bytes(slots, rule, seed, stream):
    cache, store = make(slots, rule, latency=lambda key: (key.expert_idx * 7 + key.layer_idx + seed) % 5)
    asked = 0
    for layer, experts, event in stream:
        cache.begin_pass()
        store.fails = lambda key, layer=layer, event=event: event == "fail" and key.layer_idx == layer
        if event == "prefetch":
            cache.prefetch((layer + 1) % L, sorted(experts), tiers(*experts))
        asked += len(experts)
        if event == "leave":
            next(cache.stream(layer, tiers(*experts)), None)
            cache.begin_request()
            assert_clean(cache)
            continue
        try:
            assert served(serve(cache, layer, *experts)) == sorted(experts)
        except ExpertReadError:
            assert event == "fail"
            assert_clean(cache)
        cache.end_pass()
        assert cache.residents.table.num_pinned == 0
        assert cache.residents.table.num_resident + cache.residents.table.num_reading <= slots
    assert cache.counters.lookups == asked
    cache.close()


def test_prefetching_while_a_layer_is_streamed_does_not_lose_its_reads():
    cache, store = make(6, latency=lambda key: 1 + key.expert_idx)
    cache.begin_pass()
    stream = cache.stream(0, tiers(0, 1))
    store.now = 9
    assert cache.prefetch(1, [2, 3], tiers(2, 3)) == 2
    assert served([batch.experts.tolist() for batch in stream]) == [0, 1]
    assert served(serve(cache, 1, 2, 3)) == [2, 3]


def test_lookups_count_by_precision_and_outcome_and_reads_by_time():
    cache, _ = make(2)
    before = cache.counters
    serve(cache, 0, 0, 1)
    serve(cache, 0, 1)
    found = cache.counters.since(before)
    assert (found.hits_by_tier, found.misses_by_tier, found.late_by_tier) == ({4: 1}, {4: 2}, {})
    assert sum(found.read_buckets) == 2
    assert found.read_ns > 0
    decision = Decision(np.array([[0, 1, 2]]), np.array([[1, 1, 0]], np.float32), np.array([2, 4, 2], np.uint8), 1)
    cache.residents.add_decisions([decision])
    assert cache.counters.substituted_to == {2: 1}, "the third use has no weight, the second is at the full tier"
