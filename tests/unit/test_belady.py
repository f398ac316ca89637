"""Belady's optimum: exact where it claims to be, bracketed where it does not, never beaten by a rule of the runtime."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_runtime.lab.simulator.belady import optimum
from edge_runtime.lab.simulator.requests import RequestLog

SIZES = {2: 3, 4: 5, 8: 9}


def log_of(steps: list[dict[int, int]], experts: int = 6) -> RequestLog:
    log = RequestLog(experts)
    for step in steps:
        tiers = np.zeros(experts, np.uint8)
        for expert, tier in step.items():
            tiers[expert] = tier
        log.add(0, tiers)
    return log


ONE_SIZE = {8: SIZES[8]}


def exhaustive(steps: list[dict[int, int]], sizes: dict[int, int], budget: int) -> int:
    """The true optimum over prefixes: after each step any sub-prefixes that fit may stay."""

    def size(tier: int) -> int:
        return sizes[tier] if tier else 0

    @cache
    def best(index: int, held: tuple[tuple[int, int], ...]) -> int:
        if index == len(steps):
            return 0
        now = dict(held)
        read = sum(size(t) - size(now.get(e, 0)) for e, t in steps[index].items() if t > now.get(e, 0))
        after = {e: max(now.get(e, 0), steps[index].get(e, 0)) for e in {*now, *steps[index]}}
        free = list(after.items())
        options = [()]
        for expert, tier in free:
            choices = [t for t in (0, *sizes) if t <= tier]
            options = [(*o, (expert, t)) for o in options for t in choices]
        costs = []
        for option in options:
            kept = tuple(sorted((e, t) for e, t in option if t))
            # what is asked for now must be there now, beside everything kept
            peak = {e: max(t, steps[index].get(e, 0)) for e, t in kept} | {
                e: max(t, dict(kept).get(e, 0)) for e, t in steps[index].items()
            }
            if sum(size(t) for t in peak.values()) <= budget:
                costs.append(best(index + 1, kept))
        return read + min(costs)

    return best(0, ())


def test_a_worked_example():
    # two slots, a b c a b: c takes the slot of b (used again last after a), so 4 reads
    steps = [{0: 8}, {1: 8}, {2: 8}, {0: 8}, {1: 8}]
    found = optimum(log_of(steps), ONE_SIZE, 18)
    assert found.exact
    assert found.upper_bytes == found.lower_bytes == 4 * 9


steps_of_one_tier = st.lists(
    st.sets(st.integers(0, 3), min_size=1, max_size=2).map(lambda s: dict.fromkeys(s, 8)), min_size=1, max_size=6
)
steps_mixed = st.lists(
    st.dictionaries(st.integers(0, 2), st.sampled_from([2, 4, 8]), min_size=1, max_size=2), min_size=1, max_size=5
)


@settings(max_examples=40, deadline=None)
@given(steps_of_one_tier, st.integers(18, 40))
def test_one_size_is_the_true_optimum(steps, budget):
    found = optimum(log_of(steps), ONE_SIZE, budget)
    assert found.exact
    assert found.lower_bytes == found.upper_bytes == exhaustive(steps, ONE_SIZE, budget)


@settings(max_examples=40, deadline=None)
@given(steps_mixed, st.integers(18, 30))
# of one record that does not fit whole beside the others a prefix stays, though nobody asks for that tier
@example([{1: 8}, {0: 8, 2: 8}, {0: 8, 1: 8}], 21)
def test_mixed_sizes_are_bracketed(steps, budget):
    found = optimum(log_of(steps), SIZES, budget)
    assert found.lower_bytes <= exhaustive(steps, SIZES, budget) <= found.upper_bytes


def test_no_requests_read_nothing():
    assert optimum(RequestLog(4), SIZES, 100).upper_bytes == 0


def test_the_bound_is_not_trivial():
    """With room for half of what is used in turn, a bound that kept everything or nothing would be useless."""
    rng = np.random.default_rng(0)
    steps = [{int(e): int(rng.choice([2, 4, 8]))} for e in rng.integers(0, 6, 400)]
    found = optimum(log_of(steps), SIZES, 27)
    assert 0.6 * found.upper_bytes < found.lower_bytes <= found.upper_bytes
    assert found.upper_bytes < 0.9 * sum(SIZES[t] for s in steps for t in s.values())


@pytest.mark.parametrize("count", [1, 2])
def test_layers_share_one_cache(count):
    log = RequestLog(2)
    for _ in range(3):
        for layer in range(count):
            log.add(layer, np.array([8, 0], np.uint8))
    assert optimum(log, SIZES, 9 * count).upper_bytes == 9 * count
