"""The native `next-use` against its numpy oracle, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.experts.eviction import RuleContext, create_rule
from edge_runtime.experts.native import UseForecast
from tests.next_use_oracle import NextUseOracle

UNUSED = np.zeros(0, np.uint8)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("layers", "experts", "top_k"), [(1, 4, 1), (5, 16, 2), (12, 128, 8)])
def test_it_scores_as_the_oracle_does(layers, experts, top_k, seed):
    """Random texts that change their favourites; passes of one token and of chunks; layers that are skipped."""
    rng = np.random.default_rng(seed)
    context = RuleContext(num_layers=layers, num_experts=experts, tier_bytes={8: 8}, full_tier=8, top_k=top_k)
    shortest, memory = float(rng.choice([0.0, 0.1, 2.0])), int(rng.integers(1, 6))
    rule = create_rule(f"next-use:shortest={shortest},memory={memory}", context)
    oracle = NextUseOracle(layers, experts, top_k, shortest, memory)
    for step in range(30):
        if step % 10 == 0:
            favourites = rng.dirichlet(np.full(experts, 0.3), size=layers) + 1e-9
        tokens = 1 if rng.random() < 0.7 else int(rng.integers(2, 20))
        rule.begin_pass() if tokens == 1 else rule.begin_tokens(tokens)
        oracle.begin_pass(tokens)
        for layer in range(layers):
            chances = favourites[layer] / favourites[layer].sum()
            topk = np.array([rng.choice(experts, top_k, replace=False, p=chances) for _ in range(tokens)], np.int32)
            tiers = (rng.random(experts) < 0.9).astype(np.uint8) * 8
            used = [row[tiers[row] > 0] for row in topk]
            if tokens == 1 and len(used[0]):
                rule.use(used[0].astype(np.int64) + layer * experts, UNUSED)
                oracle.use(layer, used)
            elif tokens > 1:
                rule.use_in_order(layer, tiers, topk)
                oracle.use(layer, used)
            residents = rng.choice(layers * experts, layers * experts // 2, replace=False)
            np.testing.assert_allclose(
                rule.scores(residents, layer), oracle.scores(residents, layer), rtol=1e-9, atol=1e-12
            )


def test_a_prompt_leaves_behind_what_its_text_uses_most():
    """Three of four tokens use expert 1, one uses 2: by the chunk they are not alike, and 3 is not known at all."""
    rule = create_rule("next-use", RuleContext(1, 4, {8: 8}, 8))
    rule.begin_tokens(64)
    rule.use_in_order(0, np.full(4, 8, np.uint8), np.array([[1], [2], [1], [1]] * 16, np.int32))
    often, seldom, never = -rule.scores(np.array([1, 2, 3]), 0)
    assert 2 * often < seldom
    assert 2 * seldom < never


def test_free_slots_and_passes_without_a_use_are_no_trouble():
    rule = create_rule("next-use", RuleContext(2, 4, {8: 8}, 8))
    rule.begin_pass()
    rule.use(np.zeros(0, np.int64), UNUSED)
    rule.begin_pass()
    scores = rule.scores(np.array([-1, 3, -1, 7]), 1)
    assert np.isfinite(scores).all()
    assert len(rule.scores(np.zeros(0, np.int64), 0)) == 0


def test_what_there_is_not_is_refused_before_anything_changes():
    forecast = UseForecast(2, 4, 1, 0.1, 3)
    before, after = np.empty(8), np.empty(8)
    forecast.score(np.arange(8), 0, before)
    with pytest.raises(IndexError, match="there is no key 8"):
        forecast.use(np.array([1, 8]))
    with pytest.raises(IndexError, match="there is no key -1"):
        forecast.use(np.array([-1]))
    with pytest.raises(IndexError, match="there is no key -2"):
        forecast.score(np.array([-2]), 0, np.empty(1))
    with pytest.raises(IndexError, match="no such layer"):
        forecast.score(np.array([0]), 2, np.empty(1))
    with pytest.raises(ValueError, match="a score for each key"):
        forecast.score(np.array([0]), 0, np.empty(2))
    with pytest.raises(IndexError, match="there is no expert 4"):
        forecast.use_in_order(0, np.ones(4, np.uint8), np.array([[0], [4]], np.int32))
    with pytest.raises(IndexError, match="there is no expert -1"):
        forecast.use_in_order(0, np.ones(4, np.uint8), np.array([[0], [-1]], np.int32))
    with pytest.raises(IndexError, match="no such layer"):
        forecast.use_in_order(2, np.ones(4, np.uint8), np.array([[0]], np.int32))
    with pytest.raises(ValueError, match="a tier for each expert"):
        forecast.use_in_order(0, np.ones(3, np.uint8), np.array([[0]], np.int32))
    with pytest.raises(ValueError, match="must be positive"):
        UseForecast(0, 4, 1, 0.1, 3)
    forecast.score(np.arange(8), 0, after)
    assert after.tolist() == before.tolist()
