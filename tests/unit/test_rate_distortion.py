"""Rate-distortion by hand, its neutrality at budget 0, and the controller on scripted losses."""

from __future__ import annotations

import numpy as np
import policy_cases
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import one_token
from policy_cases import route

from edge_runtime.base.errors import ConfigError
from edge_runtime.bundle.calibration import ExpertCalibration, LayerCalibration, Sensitivity
from edge_runtime.policy import create_policy
from edge_runtime.policy.base import Decision, PolicyContext
from edge_runtime.policy.rate_distortion.policy import RateDistortion
from edge_runtime.policy.rate_distortion.rate_control import PriceController
from edge_runtime.policy.rate_distortion.use_rates import UseRates

E, K = 8, 4
BYTES = {2: 300, 4: 500, 6: 700, 8: 900}


def calibration(substitute: float = 9.0, layers: int = 2) -> ExpertCalibration:
    errors = {"2": [0.3] * E, "4": [0.1] * E, "6": [0.05] * E, "8": [0.0] * E}
    layer = [
        LayerCalibration(i, {"2": [0.3] * E}, [1] * E, errors, [2.0] * E, Sensitivity(0.5, 1.0, substitute))
        for i in range(layers)
    ]
    return ExpertCalibration(2, layer, tokens=16, full_tier=8, score_quantiles=[0.0] * 101, checks=[])


def context(tier: int = 8, substitute: float = 9.0, norm: bool = True) -> PolicyContext:
    return policy_cases.context(
        2, E, K, norm, tier=tier, tier_bytes=BYTES, calibration=calibration(substitute)
    )  # fmt: skip


class Residents:
    def __init__(self, tiers: dict[int, int]) -> None:
        self._row = np.zeros(E, np.uint8)
        for expert, tier in tiers.items():
            self._row[expert] = tier

    def resident_tiers(self, layer_idx: int) -> np.ndarray:
        return self._row


def policy(price: float, *, tier: int = 8, substitute: float = 9.0, **given_params) -> RateDistortion:
    """A policy whose price stands still."""
    params = {"max_kld": 0.01, "low": 2, "memory": 64, "horizon": 0} | given_params
    made = RateDistortion(context(tier, substitute), **params)
    assert made._model is not None
    made._model.control.price = price
    return made


def decide(made: RateDistortion, weights: list[float], residents: dict[int, int]) -> Decision:
    logits = np.full((1, E), -50, np.float32)
    logits[0, : len(weights)] = np.log(weights)
    return made.decide(0, route(logits, K, norm_topk_prob=True), Residents(residents))


def test_the_choice_by_hand():
    """Norm 2, quantise 0.5, skip 1: at weight w tier 2 loses 0.18 w^2, 4: 0.02 w^2, 6: 0.005 w^2, a skip 4 w^2.

    At a price of 1e-5 a byte, nothing resident, what is minimised is:
    w 0.6: tier 2 0.0648 + 0.003, 4 0.0072 + 0.005, 6 0.0018 + 0.007 (0.0088), 8 0 + 0.009     -> 6
    w 0.3: tier 2 0.0162 + 0.003, 4 0.0018 + 0.005 (0.0068), 6 0.00045 + 0.007, 8 0.009        -> 4
    w 0.08: skip 0.0256, tier 2 0.00115 + 0.003 (0.00415), 4 0.000128 + 0.005                  -> 2
    w 0.02: skip 0.0016, tier 2 0.000072 + 0.003                                               -> skip
    """
    plan = decide(policy(1e-5), [0.6, 0.3, 0.08, 0.02], {})
    assert plan.tiers[:4].tolist() == [6, 4, 2, 0]
    assert plan.topk_weights[0].tolist() == pytest.approx([0.6, 0.3, 0.08, 0])
    assert (plan.skipped, plan.substituted, plan.route_changed) == (1, 3, 0)
    assert plan.predicted_kld == pytest.approx(0.005 * 0.36 + 0.02 * 0.09 + 0.18 * 0.0064 + 4 * 0.0004, rel=1e-4)


def test_residents_are_used_as_deep_as_they_are_and_deepened_where_it_pays():
    plan = decide(policy(1e-5), [0.6, 0.3, 0.08, 0.02], {0: 2, 1: 8, 2: 4, 3: 2})
    # expert 0 has 300 of its bytes: tier 6 costs 0.0018 + 0.004, tier 8 0.006, tier 4 0.0072 + 0.002
    assert plan.tiers[:4].tolist() == [6, 8, 4, 2]
    assert plan.skipped == 0


def test_the_heaviest_is_never_skipped_and_a_free_byte_is_always_read():
    assert decide(policy(10.0), [0.4, 0.3, 0.2, 0.1], {}).tiers[:4].tolist() == [2, 0, 0, 0]
    assert decide(policy(1e-12), [0.4, 0.3, 0.2, 0.1], {}).tiers[:4].tolist() == [8, 8, 8, 8]


def carrying(made: RateDistortion, powers: dict[int, float]) -> RateDistortion:
    """Let the experts of layer 0 be expected to carry this squared weight a token, as if it had been seen for ever."""
    rates = made._model.rates
    rates.tokens[0], rates.factors[0] = 1e15, 1.0
    rates.sums[0] = [powers.get(e, 0.0) * 1e15 for e in range(E)]
    return made


def test_uses_to_come_pay_for_a_read():
    """Expert 3 weighs 0.02 now and 0.01 a token in the next 100: 1.0004 in all, so tier 8 (0.009) beats 6 (0.012)."""
    assert decide(policy(1e-5), [0.6, 0.3, 0.08, 0.02], {}).tiers[3] == 0
    made = carrying(policy(1e-5, horizon=100), {3: 0.01})
    assert decide(made, [0.6, 0.3, 0.08, 0.02], {}).tiers[:4].tolist() == [6, 4, 2, 8]
    assert decide(carrying(made, {3: 0.0005}), [0.6, 0.3, 0.08, 0.02], {}).tiers[3] == 4, "0.0504: 0.001 + 0.005"


def test_uses_to_come_do_not_count_where_as_much_has_to_leave():
    """Tier 4 saves (4 - 0.02) * 0.05 = 0.199 nats in 100 tokens; its 500 bytes displace as much at 4e-4 nats a byte."""
    made = carrying(policy(1e-5, horizon=100), {3: 0.0005})
    opportunity_cost = made._model.opportunity_cost
    opportunity_cost._read, opportunity_cost._grown, opportunity_cost._value = 500.0, 0.0, 4e-6
    assert opportunity_cost.nats_a_byte == pytest.approx(4e-4)
    assert decide(made, [0.6, 0.3, 0.08, 0.02], {}).tiers[3] == 2, "300 bytes displace 0.12 nats and save 0.191"
    opportunity_cost._value = 7e-6
    assert decide(made, [0.6, 0.3, 0.08, 0.02], {}).tiers[3] == 0
    opportunity_cost._grown = 500.0  # everything read found room: nobody has to leave
    assert decide(made, [0.6, 0.3, 0.08, 0.02], {}).tiers[3] == 4


def test_rates_begin_with_the_calibration_and_follow_the_text():
    """Counts of 1 in 16 tokens, K uses sharing a weight of 1 where no powers are known: 8 uses a token are 1/16 each."""
    rates = UseRates(2, E, calibration(), memory=64)
    layer = LayerCalibration(0, {}, [1] * E, {}, [2.0] * E, Sensitivity(1, 1, 1), powers=[0.5] * E)
    known = UseRates(1, E, ExpertCalibration(2, [layer], 16, 8, [], []), memory=64)
    assert known.powers(0).tolist() == pytest.approx([0.5 / 16] * E)
    first = rates.powers(0)[0]
    logits = np.full((1, E), -50, np.float32)
    logits[0, :4] = np.log([0.6, 0.3, 0.08, 0.02])
    routing = route(logits, K, norm_topk_prob=True)
    rates.note(0, routing)
    keep = 1 - 1 / 64
    assert rates.powers(0)[0] == pytest.approx((64 * keep * first + 0.36) / (64 * keep + 1), rel=1e-4)
    for _ in range(800):
        rates.note(0, routing)
    assert rates.powers(0)[:5] == pytest.approx([0.36, 0.09, 0.0064, 0.0004, 0], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("budget", [0.001, 0.018])
def test_the_first_price_is_where_the_calibration_text_would_spend_the_budget(budget):
    """All experts are alike here, so the loss rises in steps: the price is that of the step that passes the budget."""
    made = create_policy(f"rate-distortion:max_kld={budget}", context())
    model = made._model
    sizes = np.array([*(BYTES[t] for t in made._tiers), 0])

    def lost(price: float) -> float:
        powers = np.stack([model.rates.powers(layer) for layer in range(2)])
        worth = model.losses * (powers.mean(axis=1, keepdims=True) + model.horizon * powers)[:, None]
        choice = (worth + price * sizes[None, :, None]).argmin(axis=1)
        return float((np.take_along_axis(model.losses, choice[:, None], axis=1)[:, 0] * powers).sum())

    assert lost(0.99 * made.price) <= budget <= lost(1.01 * made.price)


def test_errors_count_from_the_full_tier_of_the_run():
    plan = decide(policy(1e-12, tier=4), [0.4, 0.3, 0.2, 0.1], {0: 2})
    assert plan.tiers[:4].tolist() == [4, 4, 4, 4]
    assert plan.predicted_kld == 0


def test_a_substitute_takes_the_place_only_where_it_is_better():
    weights, residents = [0.5, 0.3, 0.19, 0.01], {0: 8, 1: 8, 2: 8, 6: 4}
    assert decide(policy(1e-3), weights, residents).topk_ids[0].tolist() == [0, 1, 2, 3]
    better = decide(policy(1e-3, substitute=0.5), weights, residents)
    assert better.topk_ids[0].tolist() == [0, 1, 2, 6]
    assert (better.tiers[6], better.tiers[3]) == (4, 0)
    assert better.route_changed == 1
    assert better.predicted_kld == pytest.approx(0.5 * 4 * 0.01**2, rel=1e-3)


def test_several_tokens_share_an_expert():
    """The loss of an expert is summed over the tokens; one that is some token's first stays."""
    made = policy(1e-4)
    logits = np.full((3, E), -50, np.float32)
    logits[:, :4] = np.log([0.6, 0.2, 0.15, 0.05])
    logits[2, [0, 3]] = logits[2, [3, 0]]
    plan = made.decide(0, route(logits, K, norm_topk_prob=True), Residents({}))
    assert plan.tiers[3] > 0
    assert plan.tiers[0] >= plan.tiers[1] >= plan.tiers[2]
    assert (plan.tiers[plan.topk_ids[plan.topk_weights != 0]] > 0).all()
    assert plan.substituted + plan.skipped <= 12


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_the_native_choice_for_one_token_is_the_formulas(data):
    """Against plain Python that knows nothing of its tables: norms, errors and sensitivities are those of `calibration`."""
    substitute, norm = data.draw(st.sampled_from([0.5, 9.0])), data.draw(st.booleans())
    memory, horizon = data.draw(st.sampled_from([1.01, 64])), data.draw(st.sampled_from([0, 100]))
    made = RateDistortion(
        context(substitute=substitute, norm=norm), max_kld=0.01, low=2, memory=memory, horizon=horizon
    )
    model, rng = made._model, np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    losses = {2: 0.18, 4: 0.02, 6: 0.005, 8: 0.0}
    powers, tokens = [1 / 16 / E * 8] * E, 64.0
    assert model.rates.powers(0).tolist() == pytest.approx(powers)
    for _ in range(6):
        model.control.price = 10 ** data.draw(st.floats(-7, -2))
        model.opportunity_cost._read, model.opportunity_cost._value = 1.0, 10 ** data.draw(st.floats(-9, -4))
        logits = 3 * rng.normal(size=(1, E)).astype(np.float32)
        logits[:, data.draw(st.integers(1, E)) :] = -200  # weights of 0 where fewer than K are left
        routing = route(logits, K, norm_topk_prob=norm)
        residents = Residents(data.draw(st.dictionaries(st.integers(0, E - 1), st.sampled_from([2, 4, 6, 8]))))
        row = residents.resident_tiers(0)
        ids, weights = routing.topk_ids[0].tolist(), routing.topk_weights[0].tolist()
        costs = one_token.Costs(
            losses, 4.0, substitute, BYTES, model.price, model.opportunity_cost.nats_a_byte, horizon
        )

        foreseen = made.predict_tiers(0, routing, residents)
        of_token = (routing.logits[0].tolist(), ids, weights, row.tolist())
        assert [foreseen[e] for e in ids] == one_token.choose(costs, powers, *of_token, normalise=norm).served
        assert set(np.flatnonzero(foreseen)) <= set(ids)
        assert model.rates.powers(0).tolist() == pytest.approx(powers, rel=1e-9, abs=1e-30), "it only looks"
        plan, read_bytes, held = model.decide(0, routing, row)
        powers = one_token.uses_after(powers, tokens, 1 - 1 / memory, ids, weights)
        tokens = tokens * (1 - 1 / memory) + 1
        assert model.rates.powers(0).tolist() == pytest.approx(powers, rel=1e-9, abs=1e-30)
        expected = one_token.choose(costs, powers, *of_token, normalise=norm)
        assert plan.tiers.tolist() == expected.tiers
        assert plan.topk_ids[0].tolist() == expected.ids
        assert plan.topk_weights[0].tolist() == pytest.approx(expected.weights, rel=1e-5)
        assert (plan.substituted, plan.skipped, plan.route_changed) == expected.counts
        assert (plan.predicted_kld, read_bytes) == pytest.approx((expected.loss, expected.read), rel=1e-5)
        assert held == sum(BYTES[tier] for tier in row.tolist() if tier)


def test_weights_that_are_no_numbers_do_not_stay_in_the_price():
    made = create_policy("rate-distortion:max_kld=0.01", context())
    for tokens in (1, 2, 1):
        made.begin_pass(tokens, has_logits=True)
        broken = route(np.full((tokens, E), np.nan, np.float32), K, norm_topk_prob=True)
        assert np.isnan(broken.topk_weights).all(), "so that the damage shows"
        made.decide(0, broken, Residents({}))
    made.begin_pass(1, has_logits=True)
    assert np.isfinite(made.price)


def test_what_a_byte_of_the_residents_saves_by_hand():
    """Expert 0 at tier 8 saves (4 - 0) * 0.01 nats a token on 900 bytes, expert 1 at tier 2 (4 - 0.18) * 0.02 on 300."""
    made = carrying(policy(1e-5, horizon=100), {0: 0.01, 1: 0.02})
    opportunity_cost = made._model.opportunity_cost
    made._model.note_residents(0, Residents({0: 8, 1: 2}).resident_tiers(0))
    seen = (4 * 0.01 / 900 + 3.82 * 0.02 / 300) / 2
    assert opportunity_cost._value == pytest.approx(seen / 16, rel=1e-5)
    made._model.note_residents(0, Residents({}).resident_tiers(0))
    assert opportunity_cost._value == pytest.approx(seen / 16, rel=1e-5), "nobody is there"


def test_the_native_choice_refuses_what_does_not_fit():
    made = policy(1e-5)
    before = made._model.rates.powers(0).tolist()
    routing = route(np.zeros((1, E), np.float32), K, norm_topk_prob=True)
    with pytest.raises(IndexError, match="no layer 2"):
        made._model.decide(2, routing, np.zeros(E, np.uint8))
    with pytest.raises(ValueError, match="tiers of residents"):
        made._model._one.predict_tiers(
            0, routing.logits, *routing[:3], np.zeros(E - 1, np.uint8), 1.0, 1.0, np.zeros(E, np.uint8)
        )
    with pytest.raises(IndexError, match="at most 16"):
        made._model.decide(0, routing, np.full(E, 17, np.uint8))
    with pytest.raises(IndexError, match=f"no expert {E}"):
        made._model.decide(0, routing._replace(topk_ids=np.full((1, K), E, np.int32)), np.zeros(E, np.uint8))
    assert made._model.rates.powers(0).tolist() == before, "nothing was noted"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_budget_0_is_lossless(data):
    made, lossless = (create_policy(name, context()) for name in ("rate-distortion:max_kld=0", "lossless"))
    assert made.min_tier == 8
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    for _ in range(4):
        tokens = data.draw(st.integers(1, 3))
        routing = route(rng.normal(size=(tokens, E)).astype(np.float32), K, norm_topk_prob=True)
        residents = Residents(data.draw(st.dictionaries(st.integers(0, E - 1), st.sampled_from([2, 4, 6, 8]))))
        made.begin_pass(tokens, has_logits=True)
        ours, theirs = (p.decide(1, routing, residents) for p in (made, lossless))
        assert (ours.topk_ids == theirs.topk_ids).all()
        assert (ours.topk_weights == theirs.topk_weights).all()
        assert (ours.tiers == theirs.tiers).all()
        assert ours.predicted_kld == 0


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_plan_serves_what_it_weighs(data):
    made = create_policy(f"rate-distortion:max_kld={data.draw(st.sampled_from([1e-4, 0.01, 1.0]))}", context())
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    for _ in range(6):
        tokens = data.draw(st.integers(1, 3))
        routing = route(3 * rng.normal(size=(tokens, E)).astype(np.float32), K, norm_topk_prob=True)
        residents = Residents(data.draw(st.dictionaries(st.integers(0, E - 1), st.sampled_from([2, 4, 6, 8]))))
        made.begin_pass(tokens, has_logits=True)
        before = made.predict_tiers(0, routing, residents)
        plan = made.decide(0, routing, residents)
        used = plan.topk_weights != 0
        assert (plan.tiers[plan.topk_ids[used]] > 0).all()
        assert used[:, 0].all()
        row = residents.resident_tiers(0)
        assert (plan.tiers[plan.topk_ids[used]] >= row[plan.topk_ids[used]]).all()
        assert plan.predicted_kld >= 0
        assert plan.skipped == int((~used).sum())
        assert plan.predicted_kld == pytest.approx(float(plan.predicted_kld))
        if plan.route_changed == 0:
            assert set(np.flatnonzero(before)) <= set(routing.topk_ids.ravel().tolist())


def test_a_bundle_without_measurements_is_refused():
    bare = policy_cases.context(2, E, K, tier_bytes=BYTES)
    with pytest.raises(ConfigError, match="--calibrate"):
        create_policy("rate-distortion", bare)
    assert create_policy("rate-distortion:max_kld=0", bare).min_tier == 8


def test_the_controller_holds_its_budget():
    """Loss grows as the root of the price, with noise of a factor of four: 6 % after 600 tokens, start included."""
    rng = np.random.default_rng(0)
    control = PriceController(0.01, 1e-3)
    control.start(1e-6)
    total = 0.0
    for _ in range(600):
        loss = 0.3 * np.sqrt(control.price) * rng.uniform(0.4, 1.6)
        control.spent(loss, 1)
        total += loss
    assert total / 600 == pytest.approx(0.01, rel=0.06)


def test_the_controller_does_not_run_away_where_nothing_is_lost():
    control = PriceController(0.01, 1e-3)
    control.start(1e-6)
    for _ in range(1000):
        control.spent(0.0, 1)
    assert control.price == pytest.approx(1e-3)
    for _ in range(60):
        control.spent(10 * control.price, 1)
    assert 10 * control.price < 0.03
