"""The rate-distortion policy: neutral at budget 0, sound decisions, use rates and a price that follow the text."""

from __future__ import annotations

import numpy as np
import policy_cases
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_cases import route
from rate_distortion_cases import BYTES, E, K, OneRow, calibration, context, residents, routing_of

from edge_runtime.base.errors import ConfigError
from edge_runtime.bundle.calibration import ExpertCalibration, LayerCalibration, Sensitivity
from edge_runtime.policy import create_policy
from edge_runtime.policy.rate_distortion.rate_control import PriceController
from edge_runtime.policy.rate_distortion.use_rates import UseRates


def some_residents(data: st.DataObject) -> OneRow:
    there = data.draw(st.dictionaries(st.integers(0, E - 1), st.sampled_from([2, 4, 6, 8])))
    return OneRow(residents(**{f"e{expert}": tier for expert, tier in there.items()}))


def test_rates_begin_with_the_calibration_and_follow_the_text():
    """Counts of 1 in 16 tokens, K uses sharing a weight of 1 where no powers are known: 8 uses a token are 1/16 each."""
    rates = UseRates(2, E, calibration(), memory=64)
    layer = LayerCalibration(0, {}, [1] * E, {}, [2.0] * E, Sensitivity(1, 1, 1), powers=[0.5] * E)
    known = UseRates(1, E, ExpertCalibration(2, [layer], 16, 8, [], []), memory=64)
    assert known.powers(0).tolist() == pytest.approx([0.5 / 16] * E)
    first = rates.powers(0)[0]
    routing = routing_of([0.6, 0.3, 0.08, 0.02])
    rates.note(0, routing)
    keep = 1 - 1 / 64
    assert rates.powers(0)[0] == pytest.approx((64 * keep * first + 0.36) / (64 * keep + 1), rel=1e-4)
    for _ in range(800):
        rates.note(0, routing)
    assert rates.powers(0)[:5] == pytest.approx([0.36, 0.09, 0.0064, 0.0004, 0], rel=1e-3, abs=1e-6)


def test_weights_that_are_no_numbers_do_not_stay_in_the_price():
    made = create_policy("rate-distortion:max_kld=0.01", context())
    for tokens in (1, 2, 1):
        made.begin_pass(tokens, has_logits=True)
        broken = route(np.full((tokens, E), np.nan, np.float32), K, norm_topk_prob=True)
        assert np.isnan(broken.topk_weights).all(), "so that the damage shows"
        made.decide(0, broken, OneRow(residents()))
    made.begin_pass(1, has_logits=True)
    assert np.isfinite(made.price)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_budget_0_is_lossless(data):
    made, lossless = (create_policy(name, context()) for name in ("rate-distortion:max_kld=0", "lossless"))
    assert made.min_tier == 8
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    for _ in range(4):
        tokens = data.draw(st.integers(1, 3))
        routing = route(rng.normal(size=(tokens, E)).astype(np.float32), K, norm_topk_prob=True)
        there = some_residents(data)
        made.begin_pass(tokens, has_logits=True)
        ours, theirs = (p.decide(1, routing, there) for p in (made, lossless))
        assert (ours.topk_ids == theirs.topk_ids).all()
        assert (ours.topk_weights == theirs.topk_weights).all()
        assert (ours.tiers == theirs.tiers).all()
        assert ours.predicted_kld == 0


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_decision_serves_what_it_weighs(data):
    made = create_policy(f"rate-distortion:max_kld={data.draw(st.sampled_from([1e-4, 0.01, 1.0]))}", context())
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    for _ in range(6):
        tokens = data.draw(st.integers(1, 3))
        routing = route(3 * rng.normal(size=(tokens, E)).astype(np.float32), K, norm_topk_prob=True)
        there = some_residents(data)
        made.begin_pass(tokens, has_logits=True)
        before = made.predict_tiers(0, routing, there)
        decision = made.decide(0, routing, there)
        used = decision.topk_weights != 0
        assert (decision.tiers[decision.topk_ids[used]] > 0).all()
        assert used[:, 0].all()
        row = there.resident_tiers(0)
        assert (decision.tiers[decision.topk_ids[used]] >= row[decision.topk_ids[used]]).all()
        assert decision.predicted_kld >= 0
        assert decision.skipped == int((~used).sum())
        assert decision.predicted_kld == pytest.approx(float(decision.predicted_kld))
        if decision.route_changed == 0:
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
