"""What rate-distortion chooses, by hand and against formulas in plain Python, at a price that stands still."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import one_token
from policy_cases import route
from rate_distortion_cases import BYTES, E, K, after_many_passes, carrying, choice, context, decide, residents

from edge_runtime.base.spec import RouterSpec
from edge_runtime.policy import create_policy
from edge_runtime.policy.rate_distortion.read_choice import ReadChoice
from edge_runtime.policy.routing import Router


def test_the_choice_by_hand():
    """Norm 2, quantise 0.5, skip 1: at weight w tier 2 loses 0.18 w^2, 4: 0.02 w^2, 6: 0.005 w^2, a skip 4 w^2.

    At a price of 1e-5 a byte, nothing resident, what is minimised is:
    w 0.6: tier 2 0.0648 + 0.003, 4 0.0072 + 0.005, 6 0.0018 + 0.007 (0.0088), 8 0 + 0.009     -> 6
    w 0.3: tier 2 0.0162 + 0.003, 4 0.0018 + 0.005 (0.0068), 6 0.00045 + 0.007, 8 0.009        -> 4
    w 0.08: skip 0.0256, tier 2 0.00115 + 0.003 (0.00415), 4 0.000128 + 0.005                  -> 2
    w 0.02: skip 0.0016, tier 2 0.000072 + 0.003                                               -> skip
    """
    decision = decide(choice(1e-5), [0.6, 0.3, 0.08, 0.02])
    assert decision.tiers[:4].tolist() == [6, 4, 2, 0]
    assert decision.topk_weights[0].tolist() == pytest.approx([0.6, 0.3, 0.08, 0])
    assert (decision.skipped, decision.substituted, decision.route_changed) == (1, 3, 0)
    assert decision.predicted_kld == pytest.approx(0.005 * 0.36 + 0.02 * 0.09 + 0.18 * 0.0064 + 4 * 0.0004, rel=1e-4)


def test_residents_are_used_as_deep_as_they_are_and_deepened_where_it_pays():
    decision = decide(choice(1e-5), [0.6, 0.3, 0.08, 0.02], e0=2, e1=8, e2=4, e3=2)
    # expert 0 has 300 of its bytes: tier 6 costs 0.0018 + 0.004, tier 8 0.006, tier 4 0.0072 + 0.002
    assert decision.tiers[:4].tolist() == [6, 8, 4, 2]
    assert decision.skipped == 0


def test_the_heaviest_is_never_skipped_and_a_free_byte_is_always_read():
    assert decide(choice(10.0), [0.4, 0.3, 0.2, 0.1]).tiers[:4].tolist() == [2, 0, 0, 0]
    assert decide(choice(1e-12), [0.4, 0.3, 0.2, 0.1]).tiers[:4].tolist() == [8, 8, 8, 8]


def test_uses_to_come_pay_for_a_read():
    """Expert 3 weighs 0.02 now and 0.01 a token in the next 100: 1.0004 in all, so tier 8 (0.009) beats 6 (0.012)."""
    assert decide(choice(1e-5), [0.6, 0.3, 0.08, 0.02]).tiers[3] == 0
    made = carrying(choice(1e-5, horizon=100), {3: 0.01})
    assert decide(made, [0.6, 0.3, 0.08, 0.02]).tiers[:4].tolist() == [6, 4, 2, 8]
    assert decide(carrying(made, {3: 0.0005}), [0.6, 0.3, 0.08, 0.02]).tiers[3] == 4, "0.0504: 0.001 + 0.005"


def test_uses_to_come_do_not_count_where_as_much_has_to_leave():
    """Tier 4 saves (4 - 0.02) * 0.05 = 0.199 nats in 100 tokens; its 500 bytes displace as much at 4e-4 nats a byte."""
    made = carrying(choice(1e-5, horizon=100), {3: 0.0005})
    cost = made.opportunity_cost
    after_many_passes(cost, read=500, grown=0, value=4e-6)
    assert cost.nats_a_byte == pytest.approx(4e-4)
    assert decide(made, [0.6, 0.3, 0.08, 0.02]).tiers[3] == 2, "300 bytes displace 0.12 nats and save 0.191"
    after_many_passes(cost, read=500, grown=0, value=7e-6)
    assert decide(made, [0.6, 0.3, 0.08, 0.02]).tiers[3] == 0
    after_many_passes(cost, read=500, grown=500, value=7e-6)  # everything read found room: nobody has to leave
    assert cost.nats_a_byte == pytest.approx(0)
    assert decide(made, [0.6, 0.3, 0.08, 0.02]).tiers[3] == 4


@pytest.mark.parametrize("budget", [0.001, 0.018])
def test_the_first_price_is_where_the_calibration_text_would_spend_the_budget(budget):
    """All experts are alike here, so the loss rises in steps: the price is that of the step that passes the budget."""
    tiers = sorted(BYTES, reverse=True)
    made = ReadChoice(context(), tiers, budget=budget, memory=256, horizon=128)
    sizes = np.array([*(BYTES[t] for t in tiers), 0])

    def lost(price: float) -> float:
        powers = np.stack([made.rates.powers(layer) for layer in range(2)])
        value = made.losses * (powers.mean(axis=1, keepdims=True) + made.horizon * powers)[:, None]
        chosen = (value + price * sizes[None, :, None]).argmin(axis=1)
        return float((np.take_along_axis(made.losses, chosen[:, None], axis=1)[:, 0] * powers).sum())

    assert lost(0.99 * made.price) <= budget <= lost(1.01 * made.price)
    assert create_policy(f"rate-distortion:max_kld={budget}", context()).price == made.price


def test_errors_count_from_the_full_tier_of_the_run():
    decision = decide(choice(1e-12, tier=4), [0.4, 0.3, 0.2, 0.1], e0=2)
    assert decision.tiers[:4].tolist() == [4, 4, 4, 4]
    assert decision.predicted_kld == 0


def test_a_substitute_takes_the_place_only_where_it_is_better():
    weights, tiers = [0.5, 0.3, 0.19, 0.01], {"e0": 8, "e1": 8, "e2": 8, "e6": 4}
    assert decide(choice(1e-3), weights, **tiers).topk_ids[0].tolist() == [0, 1, 2, 3]
    better = decide(choice(1e-3, substitute=0.5), weights, **tiers)
    assert better.topk_ids[0].tolist() == [0, 1, 2, 6]
    assert (better.tiers[6], better.tiers[3]) == (4, 0)
    assert better.route_changed == 1
    assert better.predicted_kld == pytest.approx(0.5 * 4 * 0.01**2, rel=1e-3)


def test_several_tokens_share_an_expert():
    """The loss of an expert is summed over the tokens; one that is some token's first stays."""
    made = choice(1e-4)
    logits = np.full((3, E), -50, np.float32)
    logits[:, :4] = np.log([0.6, 0.2, 0.15, 0.05])
    logits[2, [0, 3]] = logits[2, [3, 0]]
    decision = made.decide(0, route(logits, K, norm_topk_prob=True), residents()).decision
    assert decision.tiers[3] > 0
    assert decision.tiers[0] >= decision.tiers[1] >= decision.tiers[2]
    assert (decision.tiers[decision.topk_ids[decision.topk_weights != 0]] > 0).all()
    assert decision.substituted + decision.skipped <= 12


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_a_substitute_weighs_what_sparsemixer_gives_it_beside_those_that_run(scale):
    router = Router(RouterSpec(E, K, softmax_over="near", near=0.6, scale=scale), range(2))
    about = replace(context(substitute=0.5), router=router)
    made = ReadChoice(about, sorted(BYTES, reverse=True), budget=0.01, memory=64, horizon=0)
    made.control.price = 10.0  # all but the heaviest are skipped
    logits = np.array([[3.0, 2.5, 2.0, 1.5, 1.2, 1.0, 0.9, -3.0]], np.float32)
    routing = router.route(0, logits)
    decision = made.decide(0, routing, residents(e6=8)).decision
    runs = decision.topk_weights[0] != 0
    heaviest = int(routing.topk_ids[0, 0])
    assert set(decision.topk_ids[0][runs].tolist()) == {heaviest, 6}
    ids, weights = router.weigh(0, logits, np.array([[heaviest, 6]], np.int32))
    substitute = dict(zip(ids[0].tolist(), weights[0].tolist(), strict=True))[6]
    assert decision.topk_weights[0][decision.topk_ids[0] == 6] == pytest.approx(substitute, rel=1e-5)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_the_native_choice_for_one_token_is_the_formulas(data):
    """Against plain Python that knows nothing of its tables: norms, errors and sensitivities are those of `calibration`."""
    substitute, norm = data.draw(st.sampled_from([0.5, 9.0])), data.draw(st.booleans())
    memory, horizon = data.draw(st.sampled_from([1.01, 64])), data.draw(st.sampled_from([0, 100]))
    made = ReadChoice(
        context(substitute=substitute, norm=norm), sorted(BYTES, reverse=True),
        budget=0.01, memory=memory, horizon=horizon,
    )  # fmt: skip
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    losses = {2: 0.18, 4: 0.02, 6: 0.005, 8: 0.0}
    powers, tokens = [1 / 16 / E * 8] * E, 64.0
    assert made.rates.powers(0).tolist() == pytest.approx(powers)
    for _ in range(6):
        made.control.price = 10 ** data.draw(st.floats(-7, -2))
        after_many_passes(made.opportunity_cost, read=1, grown=0, value=10 ** data.draw(st.floats(-9, -4)))
        logits = 3 * rng.normal(size=(1, E)).astype(np.float32)
        logits[:, data.draw(st.integers(1, E)) :] = -200  # weights of 0 where fewer than K are left
        routing = route(logits, K, norm_topk_prob=norm)
        there = data.draw(st.dictionaries(st.integers(0, E - 1), st.sampled_from([2, 4, 6, 8])))
        row = residents(**{f"e{expert}": tier for expert, tier in there.items()})
        ids, weights = routing.topk_ids[0].tolist(), routing.topk_weights[0].tolist()
        costs = one_token.Costs(losses, 4.0, substitute, BYTES, made.price, made.opportunity_cost.nats_a_byte, horizon)

        predicted = made.predict_tiers(0, routing, row)
        of_token = (routing.logits[0].tolist(), ids, weights, row.tolist())
        assert [predicted[e] for e in ids] == one_token.choose(costs, powers, *of_token, normalise=norm).served
        assert set(np.flatnonzero(predicted)) <= set(ids)
        assert made.rates.powers(0).tolist() == pytest.approx(powers, rel=1e-9, abs=1e-30), "it only looks"
        decision, read_bytes, held = made.decide(0, routing, row)
        powers = one_token.uses_after(powers, tokens, 1 - 1 / memory, ids, weights)
        tokens = tokens * (1 - 1 / memory) + 1
        assert made.rates.powers(0).tolist() == pytest.approx(powers, rel=1e-9, abs=1e-30)
        expected = one_token.choose(costs, powers, *of_token, normalise=norm)
        assert decision.tiers.tolist() == expected.tiers
        assert decision.topk_ids[0].tolist() == expected.ids
        assert decision.topk_weights[0].tolist() == pytest.approx(expected.weights, rel=1e-5)
        assert (decision.substituted, decision.skipped, decision.route_changed) == expected.counts
        assert (decision.predicted_kld, read_bytes) == pytest.approx((expected.loss, expected.read), rel=1e-5)
        assert held == sum(BYTES[tier] for tier in row.tolist() if tier)


def test_what_a_byte_of_the_residents_saves_by_hand():
    """Expert 0 at tier 8 saves (4 - 0) * 0.01 nats a token on 900 bytes, expert 1 at tier 2 (4 - 0.18) * 0.02 on 300."""
    made = carrying(choice(1e-5, horizon=100), {0: 0.01, 1: 0.02})
    made.opportunity_cost.end_pass(1.0, 0.0)  # all that is read evicts
    made.note_residents(0, residents(e0=8, e1=2))
    seen = (4 * 0.01 / 900 + 3.82 * 0.02 / 300) / 2
    assert made.opportunity_cost.nats_a_byte == pytest.approx(100 * seen / 16, rel=1e-5)
    made.note_residents(0, residents())
    assert made.opportunity_cost.nats_a_byte == pytest.approx(100 * seen / 16, rel=1e-5), "nobody is there"


def test_the_native_choice_refuses_what_does_not_fit():
    made = choice(1e-5)
    before = made.rates.powers(0).tolist()
    routing = route(np.zeros((1, E), np.float32), K, norm_topk_prob=True)
    with pytest.raises(IndexError, match="no layer 2"):
        made.decide(2, routing, residents())
    with pytest.raises(ValueError, match="tiers of residents"):
        made.predict_tiers(0, routing, np.zeros(E - 1, np.uint8))
    with pytest.raises(IndexError, match="at most 16"):
        made.decide(0, routing, np.full(E, 17, np.uint8))
    with pytest.raises(IndexError, match=f"no expert {E}"):
        made.decide(0, routing._replace(topk_ids=np.full((1, K), E, np.int32)), residents())
    assert made.rates.powers(0).tolist() == before, "nothing was noted"
