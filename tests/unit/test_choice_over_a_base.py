"""What rate-distortion chooses where every expert is in memory at two bits: what waits, and what is read meanwhile."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import one_token
from policy_cases import route
from rate_distortion_cases import (
    BYTES,
    E,
    K,
    OneRow,
    after_many_passes,
    carrying,
    choice,
    context,
    residents,
    routing_of,
)  # fmt: skip

from edge_runtime.base.errors import ConfigError
from edge_runtime.policy import create_policy
from edge_runtime.policy.base import Decision, Hint
from edge_runtime.policy.rate_distortion.read_choice import ReadChoice

LOSSES = {2: 0.18, 4: 0.02, 6: 0.005, 8: 0.0}


def over_base(**tiers: int) -> np.ndarray:
    return np.maximum(residents(**tiers), 2)


def decided(made: ReadChoice, weights: list[float], **tiers: int) -> Decision:
    return made.decide(0, routing_of(weights), over_base(**tiers)).decision


def test_a_use_waits_only_where_the_price_says_so():
    """At weight w a use at tier 2 loses 0.18 w^2, at 4 0.02 w^2 for 200 bytes, at 8 nothing for 600.

    At 1e-4 a byte w 0.6 waits for tier 4 (0.0072 + 0.02 against 0.0648), w 0.3 does not (0.0162 against 0.0218).
    """
    made = carrying(choice(1e-4, horizon=1000, base=2, upgrades=0), {1: 1.0})
    assert decided(made, [0.6, 0.3, 0.08, 0.02]).tiers[:4].tolist() == [4, 2, 2, 2], (
        "uses to come are no reason to wait"
    )
    assert decided(made, [0.6, 0.3, 0.08, 0.02], e1=6).tiers[:4].tolist() == [4, 6, 2, 2]
    dear = carrying(choice(1.0, base=2, upgrades=0), {})
    assert decided(dear, [0.6, 0.3, 0.08, 0.02]).tiers[:4].tolist() == [2, 2, 2, 2]
    assert decided(dear, [0.6, 0.3, 0.08, 0.02]).hints == ()


def test_what_saves_most_for_its_bytes_is_read_in_the_background():
    """From 2 bits to 4 a squared weight of 1 saves 0.16 nats with 200 bytes; from 4 to 8 0.02 with 400."""
    carried = {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.01}
    made = carrying(choice(1.0, horizon=100, base=2, upgrades=1), carried)
    weights = [0.4, 0.3, 0.2, 0.1]
    assert decided(made, weights).hints == (Hint(0, (2,), 4, is_spare=True),)
    made = carrying(choice(1.0, horizon=100, base=2, upgrades=3), carried)
    assert decided(made, weights, e1=8).hints == (Hint(0, (0, 2, 3), 4, is_spare=True),)
    made = carrying(choice(1.0, horizon=100, base=2, upgrades=2), carried)
    assert decided(made, weights, e0=4, e1=8, e2=4, e3=8).hints == (Hint(0, (0, 2), 6, is_spare=True),)


def test_nothing_is_read_that_saves_less_than_what_goes_for_it():
    """Expert 2 saves 0.16 * 0.3 * 100 / 200 = 0.024 nats a byte."""
    for value, hints in ((0.023, 1), (0.025, 0)):
        made = carrying(choice(1.0, horizon=100, base=2, upgrades=4), {2: 0.3})
        after_many_passes(made.opportunity_cost, read=1, grown=0, value=value / 100)
        assert len(decided(made, [0.4, 0.3, 0.2, 0.1]).hints) == hints


def test_what_a_byte_of_the_planes_saves_by_hand():
    """Expert 0 at tier 8 saves 0.18 * 0.01 on 600 bytes above the base, expert 1 at 4 0.16 * 0.02 on 200."""
    made = carrying(choice(1.0, horizon=100, base=2, upgrades=1), {0: 0.01, 1: 0.02, 2: 9.0})
    made.opportunity_cost.end_pass(1.0, 0.0)
    made.note_residents(0, over_base(e0=8, e1=4))
    seen = (0.18 * 0.01 / 600 + 0.16 * 0.02 / 200) / 2
    assert made.opportunity_cost.nats_a_byte == pytest.approx(100 * seen / 16, rel=1e-5)


def hinted(decision: Decision) -> dict[int, int]:
    return {expert: hint.tier for hint in decision.hints for expert in hint.experts}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_native_choice_is_the_formulas(data):
    upgrades, substitute = data.draw(st.integers(0, K)), data.draw(st.sampled_from([0.5, 9.0]))
    made = choice(1.0, substitute=substitute, horizon=100, base=2, upgrades=upgrades)
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    powers, tokens = made.rates.powers(0).tolist(), 64.0
    for _ in range(4):
        made.control.price = 10 ** data.draw(st.floats(-7, -2))
        after_many_passes(made.opportunity_cost, read=1, grown=0, value=10 ** data.draw(st.floats(-9, -4)))
        routing = route(3 * rng.normal(size=(1, E)).astype(np.float32), K, norm_topk_prob=True)
        there = data.draw(st.dictionaries(st.integers(0, E - 1), st.sampled_from([4, 6, 8])))
        row = over_base(**{f"e{expert}": tier for expert, tier in there.items()})
        ids, weights = routing.topk_ids[0].tolist(), routing.topk_weights[0].tolist()
        costs = one_token.Costs(
            LOSSES, 4.0, substitute, BYTES, made.price, made.opportunity_cost.nats_a_byte, 100, base=2
        )  # fmt: skip
        of_token = (routing.logits[0].tolist(), ids, weights, row.tolist())
        predicted = made.predict_tiers(0, routing, row)
        decision, read_bytes, _ = made.decide(0, routing, row)
        powers = one_token.uses_after(powers, tokens, 1 - 1 / 64, ids, weights)
        tokens = tokens * (1 - 1 / 64) + 1
        expected = one_token.choose(costs, powers, *of_token, normalise=True)
        later = one_token.deepened(costs, powers, ids, expected.served, row.tolist(), upgrades)
        assert [predicted[e] for e in ids] == expected.served
        assert decision.tiers.tolist() == expected.tiers
        assert (decision.tiers[ids] >= row[ids]).all(), "what is there is used as deep as it is"
        assert hinted(decision) == later
        assert all(hint.is_spare for hint in decision.hints)
        at = dict(zip(ids, expected.served, strict=True))
        meanwhile = sum(BYTES[to] - BYTES[max(at[e], int(row[e]))] for e, to in later.items())
        assert (decision.predicted_kld, read_bytes) == pytest.approx(
            (expected.loss, expected.read + meanwhile), rel=1e-5
        )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 20), st.integers(0, K), st.floats(-7, -2))
def test_several_tokens_are_decided_as_one_would_be(seed, upgrades, price):
    """Of two equal tokens each expert carries twice the squared weight: as one token at half the price, without skips."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(1, E)).astype(np.float32)
    row = over_base(**{f"e{expert}": int(tier) for expert, tier in enumerate(rng.choice([2, 2, 4, 8], E))})
    rates = {expert: float(rate) for expert, rate in enumerate(rng.uniform(0, 0.1, E))}
    found = []
    for copies in (1, 2):
        made = carrying(choice(copies * 10**price, horizon=100, base=2, upgrades=upgrades), rates)
        after_many_passes(made.opportunity_cost, read=1, grown=0, value=1e-6)
        decision = made.decide(0, route(np.repeat(logits, copies, 0), K, norm_topk_prob=True), row).decision
        found.append((decision.tiers.tolist(), hinted(decision)))
    assert found[0] == found[1]


def test_a_budget_that_holds_the_base_never_waits():
    """All experts at 2 bits lose 2 * 0.18 * K / 16 = 0.09 nats at most where weights are equal."""
    made = create_policy("rate-distortion:max_kld=0.5,base=true", context())
    routing = routing_of([0.25, 0.25, 0.25, 0.25])
    for _ in range(50):
        made.begin_pass(1, has_logits=True)
        for layer in range(2):
            decision = made.decide(layer, routing, OneRow(over_base()))
            assert decision.tiers[:4].tolist() == [2, 2, 2, 2]
            assert decision.predicted_kld == pytest.approx(4 * 0.18 / 16)


def test_what_a_base_is_not_for_is_refused():
    assert create_policy("rate-distortion:base=true", context()).keeps_base
    assert not create_policy("rate-distortion", context()).keeps_base
    for text, tier, message in (
        ("rate-distortion:base=true,max_kld=0", 8, "with a budget of 0 every use waits"),
        ("rate-distortion:base=true", 2, "the full tier is 2, and no tier of this bundle lies below it"),
        ("rate-distortion:base=true,low=8", 8, "the full tier is 8, and no tier of this bundle lies below it"),
    ):
        with pytest.raises(ConfigError, match=message):
            create_policy(text, context(tier))
