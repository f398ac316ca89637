"""A running rank: the stated share of a series is low, whatever its distribution, and as it changes."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.policy.running_rank import RunningRank


def share_of(rank: RunningRank, values: np.ndarray) -> float:
    return float(np.mean([rank.is_low(float(value)) for value in values]))


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("draw", ["uniform", "normal", "exponential", "standard_cauchy"])
def test_the_share_is_kept_for_any_distribution(draw, share):
    values = getattr(np.random.default_rng(3), draw)(size=8000)
    assert share_of(RunningRank(share, 256), values) == pytest.approx(share, abs=0.025)


def test_it_follows_a_series_that_changes():
    rng = np.random.default_rng(4)
    rank = RunningRank(0.2, 64)
    share_of(rank, rng.uniform(size=500))
    assert share_of(rank, 10 + rng.uniform(size=64)) < 0.1, "all of them are higher than any before"
    assert share_of(rank, 10 + rng.uniform(size=2000)) == pytest.approx(0.2, abs=0.04)


def test_by_hand():
    rank = RunningRank(0.5, 3)
    # of one none may be low; of two, three and four (the last three and itself) one, one and two
    seen = [(4.0, False), (3.0, True), (3.5, False), (3.2, True), (3.4, False), (9.0, False), (3.3, True)]
    assert [(value, rank.is_low(value)) for value, _ in seen] == seen


def test_equal_values_are_not_low_for_being_equal():
    rank = RunningRank(0.2, 16)
    assert not any(rank.is_low(1.0) for _ in range(100))
    assert rank.is_low(0.5)


def test_the_ends_of_the_range_are_none_and_all():
    values = np.random.default_rng(5).normal(size=100)
    assert share_of(RunningRank(0.0, 8), values) == 0
    assert share_of(RunningRank(1.0, 8), values) == 1


def test_what_was_cleared_is_as_new():
    values = np.random.default_rng(6).normal(size=60).tolist()
    rank = RunningRank(0.3, 16)
    first = [rank.is_low(value) for value in values]
    rank.clear()
    assert [rank.is_low(value) for value in values] == first
