"""A prompt leaves the experts in memory that its tokens use most: the rule is told of them one by one, by every way."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeStore

from edge_runtime.backends.cpu.space import HostSpace
from edge_runtime.base.arrays import I32, U8
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.eviction import EvictionRule, OrderedRule, RuleContext, create_rule
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.units import UnitLedger, UnitSizes

PAGE, E, TIER = 4096, 8, 8


def rule() -> EvictionRule:
    return create_rule("next-use", RuleContext(1, E, {TIER: 1}, TIER))


def cache_of(slots: int) -> ExpertCache:
    ledger = UnitLedger(UnitSizes(TIER, TIER, PAGE), slots * PAGE, E)
    memory = ExpertMemory(HostSpace(), ledger, block_bytes=4 * PAGE)
    return ExpertCache(Residents(ledger, rule(), num_layers=1, num_experts=E), memory, FakeStore(PAGE))


def prompt(often: int, seldom: int) -> I32:
    """Three of four tokens use one expert, the others another."""
    return np.array([[often], [seldom], [often], [often]] * 16, np.int32)


def used(ids: I32) -> U8:
    tiers = np.zeros(E, np.uint8)
    tiers[ids.ravel()] = TIER
    return tiers


def run(cache: ExpertCache, ids: I32) -> None:
    """A pass of tokens, as the engine serves one."""
    cache.begin_pass(len(ids))
    if cache.take_resident(0, used(ids), None, ids) is None:
        for _ in cache.stream(0, used(ids), None, ids):
            pass
    cache.end_pass()


def resident(cache: ExpertCache) -> set[int]:
    return set(np.flatnonzero(cache.resident_tiers(0)).tolist())


@pytest.mark.parametrize(("often", "seldom"), [(1, 2), (2, 1)])
def test_what_comes_behind_a_prompt_takes_the_place_of_what_it_used_seldom(often, seldom):
    cache = cache_of(2)
    run(cache, prompt(often, seldom))
    assert resident(cache) == {often, seldom}
    run(cache, np.array([[3]], np.int32))
    assert resident(cache) == {often, 3}


@pytest.mark.parametrize(("often", "seldom"), [(1, 2), (2, 1)])
def test_so_it_does_where_all_of_the_prompt_was_in_memory(often, seldom):
    """Then nothing is streamed. The text before used the two the other way round, so that it does not decide."""
    cache = cache_of(2)
    run(cache, prompt(seldom, often))
    misses = cache.counters.misses
    for _ in range(3):
        run(cache, prompt(often, seldom))
    assert cache.counters.misses == misses
    run(cache, np.array([[3]], np.int32))
    assert resident(cache) == {often, 3}


def test_the_rule_knows_what_single_tokens_in_their_order_would_tell_it():
    """To the last bit: also how many tokens a pass has, which says how far back an earlier one is."""
    cache, told, keys = cache_of(2), rule(), np.arange(E)
    for ids in (prompt(1, 2), prompt(2, 1)[:10], prompt(1, 2)[:7]):
        run(cache, ids)
        assert isinstance(told, OrderedRule)
        told.begin_tokens(len(ids))
        told.use_in_order(0, used(ids), ids)
        assert cache.residents.rule.scores(keys, 0).tolist() == told.scores(keys, 0).tolist()
