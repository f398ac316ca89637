"""HOBBIT, Cache-Conditional Experts and MoBiLE on examples worked by hand from their papers' formulas."""

from __future__ import annotations

import numpy as np
import pytest
from policy_cases import Residents, context, route, routed

from edge_runtime.base.errors import ConfigError
from edge_runtime.policy import create_policy
from edge_runtime.policy.base import Routing
from edge_runtime.policy.cumsum import window_of
from edge_runtime.policy.hobbit import score
from edge_runtime.policy.mobile import certainty


def used(decision) -> dict[int, int]:
    return {int(e): int(decision.tiers[e]) for e in np.flatnonzero(decision.tiers)}


# HOBBIT: s_i = weight of everything ranked above


def test_hobbit_score_by_hand():
    s = score(np.array([[0.5, 0.25, 0.15, 0.10]], np.float32))
    np.testing.assert_allclose(s, [[0, 0.5, 0.75, 0.9]], atol=1e-6)
    unnormalised = score(np.array([[0.2, 0.1, 0.06, 0.04]], np.float32))
    np.testing.assert_allclose(unnormalised, s, atol=1e-6)
    assert score(np.array([[0.0, 0.0]], np.float32)).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("first", "expected"),
    [(0.55, {0: 8, 1: 8}), (0.6001, {0: 8, 1: 2}), (0.89, {0: 8, 1: 2}), (0.91, {0: 8})],
)
def test_hobbit_top_two_as_the_paper_says(first, expected):
    # s_1 = w_0: high up to 0.6, low up to 0.9, skipped beyond
    policy = create_policy("hobbit:t1=0.6,t2=0.9", context(top_k=2))
    decision = policy.decide(0, routed(first, 1 - first), Residents())
    assert used(decision) == expected
    assert decision.skipped == 2 - len(expected)
    assert decision.substituted == sum(tier == 2 for tier in expected.values())


def test_hobbit_flat_router_reads_five_high_and_three_low():
    policy = create_policy("hobbit", context(num_experts=8, top_k=8))
    decision = policy.decide(0, routed(*[0.125] * 8), Residents())
    assert [used(decision)[e] for e in range(8)] == [8] * 5 + [2] * 3


def test_hobbit_decides_for_misses_only():
    routing = routed(0.5, 0.2, 0.15, 0.15)  # s = 0, 0.5, 0.7, 0.85
    policy = create_policy("hobbit:t1=0.4,t2=0.8", context())
    assert used(policy.decide(0, routing, Residents())) == {0: 8, 1: 2, 2: 2}
    # a resident full copy is used whatever its score; a low one serves as low, but the important one is deepened;
    # between the tiers serves as low; low copies do not save a skip
    decision = policy.decide(0, routing, Residents(e0=2, e1=6, e2=2, e3=8))
    assert used(decision) == {0: 8, 1: 6, 2: 2, 3: 8}
    assert (decision.substituted, decision.skipped) == (2, 0)
    assert used(policy.decide(0, routing, Residents(e3=2))) == {0: 8, 1: 2, 2: 2}


def test_hobbit_keeps_the_models_weights_unless_asked_to_renormalise():
    routing = routed(0.5, 0.2, 0.15, 0.15)
    kept = create_policy("hobbit:t1=0.4,t2=0.8", context()).decide(0, routing, Residents()).topk_weights
    np.testing.assert_allclose(kept, [[0.5, 0.2, 0.15, 0]], rtol=1e-5)
    scaled = create_policy("hobbit:t1=0.4,t2=0.8,renormalise=true", context()).decide(0, routing, Residents())
    np.testing.assert_allclose(scaled.topk_weights, np.array([[0.5, 0.2, 0.15, 0]]) / 0.85, rtol=1e-5)


def test_hobbit_scores_an_expert_of_a_prompt_by_its_least_score():
    a, b = routed(0.9, 0.06, 0.04, top_k=3), routed(0.04, 0.9, 0.06, top_k=3)
    both = Routing(
        *(
            np.concatenate(pair)
            for pair in zip((a.logits, a.topk_ids, a.topk_weights), (b.logits, b.topk_ids, b.topk_weights), strict=True)
        )
    )
    decision = create_policy("hobbit:t1=0.5,t2=0.92", context(top_k=3)).decide(0, both, Residents())
    assert used(decision) == {0: 8, 1: 8, 2: 2}  # least scores 0, 0, 0.9
    assert decision.substituted == 2


def test_hobbit_refuses_what_makes_no_sense():
    with pytest.raises(ConfigError, match=r"t1 <= t2"):
        create_policy("hobbit:t1=0.9,t2=0.6", context())
    with pytest.raises(ConfigError, match=r"low: expected one of 2, 4, 6, 8 .*got 3"):
        create_policy("hobbit:low=3", context())
    assert create_policy("hobbit:low=4", context()).min_tier == 4
    assert create_policy("hobbit", context(tier=4)).min_tier == 2


# Cache-Prior


def decision_of(text: str, logits: list[float], residents: Residents, **shape):
    policy = create_policy(text, context(num_experts=len(logits), **shape))
    z = np.array([logits], np.float32)
    return policy, policy.decide(0, route(z, policy.context.top_k, norm_topk_prob=True), residents)


def test_cache_prior_by_hand():
    # range 4, lambda 0.3: residents gain 1.2. z' = 4, 3, 2 + 1.2, 1.5 + 1.2, 0 -> top 3: 4, 3.2, 3
    z = [4.0, 3.0, 2.0, 1.5, 0.0]
    policy, decision = decision_of("cache-prior:lambda=0.3,j=1", z, Residents(5, e2=8, e3=8), top_k=3)
    assert policy.delta_avg(0) == 4
    assert decision.topk_ids.tolist() == [[0, 1, 2]]
    assert decision.route_changed == 0
    # lambda 0.4: residents gain 1.6. z' = 4, 3, 3.6, 3.1 -> 0, 2, 3; expert 1 is displaced
    _, decision = decision_of("cache-prior:lambda=0.4,j=1,admit=1", z, Residents(5, e2=8, e3=8), top_k=3)
    assert decision.topk_ids.tolist() == [[0, 2, 3]]
    assert decision.route_changed == 1
    odds = np.exp(np.array([4.0, 2.0, 1.5]))
    np.testing.assert_allclose(
        decision.topk_weights, [odds / odds.sum()], rtol=1e-5
    )  # the original logits decide weights
    (hint,) = decision.hints
    assert (hint.layer_idx, hint.experts, hint.is_spare) == (0, (1,), True)


def test_cache_prior_guarantees_the_first_j():
    z = [4.0, 3.9, 1.0, 0.9, 0.0]
    for j, expected in ((0, [2, 3]), (1, [0, 2]), (2, [0, 1])):
        _, decision = decision_of(f"cache-prior:lambda=1,j={j}", z, Residents(5, e2=8, e3=8), top_k=2)
        assert decision.topk_ids.tolist() == [expected], j


def test_cache_prior_running_mean_is_per_layer_and_over_tokens():
    policy = create_policy("cache-prior", context(num_experts=2, top_k=1))
    for layer, low in ((0, 1.0), (0, 3.0), (1, 7.0)):
        policy.decide(layer, route(np.array([[low + 2, 2.0]], np.float32), 1, norm_topk_prob=True), Residents(2))
    assert (policy.delta_avg(0), policy.delta_avg(1)) == (2.0, 7.0)
    prompt = np.array([[4.0, 0.0], [0.0, 6.0]], np.float32)
    decision = policy.decide(0, route(prompt, 1, norm_topk_prob=True), Residents(2, e0=8))
    assert decision.topk_ids.tolist() == [[0], [1]], "a prompt is left to the router"
    assert policy.delta_avg(0) == (1 + 3 + 4 + 6) / 4


def test_the_heaviest_expert_counts_as_used_first():
    _, decision = decision_of("cache-prior", [1.0, 4.0, 2.0, 3.0], Residents(4), top_k=3)
    assert decision.use_order.tolist() == [1, 3, 2]


def test_j_by_default_is_one_for_few_experts_and_two_for_many():
    assert create_policy("cache-prior", context(num_experts=16)).params["j"] == 1
    assert create_policy("cache-prior", context(num_experts=60)).params["j"] == 2
    with pytest.raises(ConfigError, match="at most 4"):
        create_policy("max-rank:j=5", context())


# Max-Rank and the cumulative threshold


def test_max_rank_by_hand():
    z = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    residents = Residents(6, e3=8, e4=8, e5=8)
    _, decision = decision_of("max-rank:m=5,j=1", z, residents, top_k=3)
    assert decision.topk_ids.tolist() == [[0, 3, 4]]  # rank 5 is outside the window
    _, decision = decision_of("max-rank:m=4,j=1", z, residents, top_k=3)
    assert decision.topk_ids.tolist() == [[0, 1, 3]]  # one resident inside, then the best of the rest
    _, decision = decision_of("max-rank:m=3,j=1", z, residents, top_k=3)
    assert decision.topk_ids.tolist() == [[0, 1, 2]]
    with pytest.raises(ConfigError, match=r"expected 3 \(K\) to 6"):
        decision_of("max-rank:m=2", z, residents, top_k=3)


def test_cumsum_window_by_hand():
    z = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
    assert [window_of(np.exp(z - z[0]), p) for p in (0, 0.5 - 1e-6, 0.5 + 1e-3, 0.74, 0.76, 0.89, 0.91)] == [
        1,
        1,
        2,
        2,
        3,
        3,
        4,
    ]


def test_cumsum_widens_with_the_routers_doubt():
    residents = Residents(4, e3=8)
    sure, unsure = np.log([0.9, 0.08, 0.01, 0.01]).tolist(), np.log([0.3, 0.26, 0.24, 0.2]).tolist()
    _, decision = decision_of("cumsum:p=0.95,j=1", sure, residents, top_k=2)
    assert decision.topk_ids.tolist() == [[0, 1]]
    _, decision = decision_of("cumsum:p=0.95,j=1", unsure, residents, top_k=2)
    assert decision.topk_ids.tolist() == [[0, 3]]


# MoBiLE


def test_mobile_runs_half_the_experts_then_all_if_unsure():
    policy = create_policy("mobile:threshold=0.6", context(num_experts=6))
    routing = routed(0.4, 0.3, 0.2, 0.1, num_experts=6)
    policy.begin_pass(1, has_logits=True)
    decisions = [policy.decide(layer, routing, Residents(6)) for layer in (0, 1, 3)]
    assert used(decisions[0]) == {0: 8, 1: 8}
    np.testing.assert_allclose(decisions[0].topk_weights, [[4 / 7, 3 / 7, 0, 0]], rtol=1e-5)
    assert (decisions[0].skipped, decisions[0].hints) == (2, ())
    unsure = np.log(np.array([[0.5, 0.5]], np.float32))
    assert not policy.accept(unsure)
    again = [policy.decide(layer, routing, Residents(6)) for layer in (0, 1, 3)]
    assert used(again[0]) == {0: 8, 1: 8, 2: 8, 3: 8}
    assert (again[0].topk_weights == routing.topk_weights).all()
    assert [(hint.layer_idx, hint.experts) for hint in again[0].hints] == [(1, (0, 1, 2, 3))]
    assert [hint.layer_idx for hint in again[1].hints] == [3], "the next sparse layer"
    assert again[2].hints == ()
    assert policy.accept(unsure), "the second pass always stands"
    policy.begin_pass(1, has_logits=True)
    policy.decide(0, routing, Residents(6))
    assert policy.accept(np.log(np.array([[0.7, 0.3]], np.float32)))


def output(confidence: float) -> np.ndarray:
    return np.log(np.array([[confidence, 1 - confidence]], np.float32))


def test_mobile_runs_the_least_certain_fifth_again_unless_told_otherwise():
    policy = create_policy("mobile", context())

    def stands(confidence: float) -> bool:
        policy.begin_pass(1, has_logits=True)
        return policy.accept(output(confidence))

    # a fifth of fewer than five is none; the fifth is run again if it is the least certain of five
    assert [stands(c) for c in (0.9, 0.6, 0.8, 0.7)] == [True] * 4
    assert not stands(0.55)
    assert stands(0.58), "one of six: only the least certain, which was the one before"
    assert not stands(0.51)
    policy.begin_sequence()
    assert [stands(c) for c in (0.51, 0.52, 0.53, 0.54)] == [True] * 4, "a new text has nothing to compare with"
    assert stands(0.51), "as certain as another is not less certain"


def test_mobile_looks_ahead_for_no_more_than_it_will_use():
    policy, routing = create_policy("mobile", context()), routed(0.4, 0.3, 0.2, 0.1)
    policy.begin_pass(1, has_logits=True)
    assert np.flatnonzero(policy.predict_tiers(1, routing, Residents())).tolist() == [0, 1]
    policy.begin_pass(2, has_logits=True)
    assert np.flatnonzero(policy.predict_tiers(1, routing, Residents())).tolist() == [0, 1, 2, 3]


def test_mobile_leaves_prompts_alone():
    policy = create_policy("mobile:threshold=1", context())
    for tokens, has_logits in ((5, True), (1, False)):
        policy.begin_pass(tokens, has_logits=has_logits)
        assert len(used(policy.decide(0, routed(0.4, 0.3, 0.2, 0.1), Residents()))) == 4
        assert policy.accept(np.zeros((1, 9), np.float32))


def test_certainty_by_hand():
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125], np.float32))
    assert certainty(logits, "confidence") == pytest.approx(0.5)
    assert certainty(logits, "margin") == pytest.approx(0.25)
    assert certainty(logits, "entropy") == pytest.approx(1 - 1.75 / 2, abs=1e-6)
    with pytest.raises(ConfigError, match="confidence, margin, entropy"):
        create_policy("mobile:signal=mood", context())
    with pytest.raises(ConfigError, match="at most 4"):
        create_policy("mobile:k=5", context())
