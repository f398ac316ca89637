"""Eviction rules, each worked by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.base.errors import ConfigError
from edge_runtime.bundle.calibration import ExpertCalibration, LayerCalibration, Sensitivity
from edge_runtime.experts.eviction import RuleContext, create_rule
from edge_runtime.experts.eviction.layer_sizes import divide, expected_loads
from edge_runtime.experts.eviction.lcu import Lcu
from edge_runtime.experts.eviction.lru import Lru

TIERS = {4: 100, 8: 200}


def at(tier: int) -> np.ndarray:
    return np.array([tier], np.uint8)  # the same for every key


def keys(*values: int) -> np.ndarray:
    return np.array(values, np.intp)


def test_lru_prefers_the_longest_unused():
    rule = Lru(RuleContext(2, 4, TIERS, 8))
    for key in (5, 1, 3, 1):
        rule.use(keys(key), at(8))
    assert np.argsort(rule.scores(keys(1, 3, 5), 0)).tolist() == [2, 1, 0]
    rule.begin_sequence()
    assert np.argsort(rule.scores(keys(1, 3, 5), 0)).tolist() == [2, 1, 0]


def test_lcu_by_hand():
    # L = 4 layers, E = 2 experts: key = 2 * layer + expert
    rule = Lcu(RuleContext(4, 2, TIERS, 8))
    rule.begin_sequence()
    rule.begin_pass()  # T = 1
    rule.use(keys(0, 3), at(8))  # layer 0 expert 0; layer 1 expert 1
    rule.begin_pass()  # T = 2: keys 0 and 3 were used in the previous pass
    rule.use(keys(0), at(8))
    rule.use(keys(6), at(4))  # layer 3 expert 0 at half the bytes
    # while layer 2 needs room:
    #   key 0: C = 2, D = (0 - 2 + 4) mod 4 + 0.1 = 2.1  -> 2/2 + 1/2.1
    #   key 3: C = 1, D = (1 - 2 + 4) mod 4 + 0.1 = 3.1  -> 1/2 + 1/3.1
    #   key 6: C = 0.5, not used in the previous pass    -> 0.5/2
    #   key 5: never used                                -> 0
    expected = [1 + 1 / 2.1, 0.5 + 1 / 3.1, 0.25, 0.0]
    np.testing.assert_allclose(rule.scores(keys(0, 3, 6, 5), 2), expected, rtol=1e-6)


def test_lcu_prefers_to_keep_what_the_current_layer_used_last_time():
    rule = Lcu(RuleContext(4, 2, TIERS, 8))
    rule.begin_pass()
    rule.use(keys(2, 4), at(8))
    rule.begin_pass()
    near, far = rule.scores(keys(4, 2), 2)
    assert near == pytest.approx(0.5 + 1 / 0.1)
    assert far == pytest.approx(0.5 + 1 / 3.1)


def test_lcu_forgets_a_sequence():
    rule = Lcu(RuleContext(2, 2, TIERS, 8))
    rule.begin_pass()
    rule.use(keys(0, 1), at(8))
    rule.begin_sequence()
    rule.begin_pass()
    assert rule.scores(keys(0, 1, 2), 0).tolist() == [0, 0, 0]


def test_lcu_counts_only_the_previous_pass_as_previous():
    rule = Lcu(RuleContext(1, 2, TIERS, 8))
    rule.begin_pass()
    rule.use(keys(0), at(8))
    assert rule.scores(keys(0), 0)[0] == pytest.approx(1.0)
    rule.begin_pass()
    assert rule.scores(keys(0), 0)[0] == pytest.approx(0.5 + 10)
    rule.begin_pass()
    assert rule.scores(keys(0), 0)[0] == pytest.approx(1 / 3)


def test_scores_are_fresh_arrays():
    for rule in (Lru(RuleContext(1, 4, TIERS, 8)), Lcu(RuleContext(1, 4, TIERS, 8))):
        rule.scores(keys(0, 1), 0)[:] = 7
        assert (rule.scores(keys(0, 1), 0) == 0).all()


def test_rules_by_name():
    options = {"num_layers": 1, "num_experts": 2, "tier_bytes": TIERS, "full_tier": 8}
    assert create_rule("lru", RuleContext(**options)).name == "lru"
    assert create_rule("lcu", RuleContext(**options)).name == "lcu"
    with pytest.raises(
        ConfigError,
        match=r"eviction: expected one of lru, lcu, lfru, mdc, next-use, rate-distortion, layer-sizes, got 'lcv'\. Did you mean",
    ):
        create_rule("lcv", RuleContext(**options))


def test_multidimensional_by_hand():
    rule = create_rule(
        "mdc:lru=0.4,lfu=0.3,lhu=0.2,fld=0.1", RuleContext(num_layers=4, num_experts=2, tier_bytes=TIERS, full_tier=8)
    )
    rule.begin_sequence()
    rule.begin_pass()  # T = 1
    rule.use(keys(0, 3), at(8))
    rule.begin_pass()  # T = 2
    rule.use(keys(0), at(4))
    # while layer 2 needs room (L = 4):
    #   key 0, layer 0: R 2, F 2, H 1, (0 - 2 + 4) mod 4 = 2 ahead
    #   key 3, layer 1: R 1, F 1, H 1, 3 ahead;  key 5, layer 2: never used, 0 ahead
    expected = [
        0.4 * 2 / 2 + 0.3 * 2 / 2 + 0.2 * 1 / 2 + 0.1 * (1 - 2 / 4),
        0.4 * 1 / 2 + 0.3 * 1 / 2 + 0.2 * 1 / 2 + 0.1 * (1 - 3 / 4),
        0.1,
    ]
    np.testing.assert_allclose(rule.scores(keys(0, 3, 5), 2), expected, rtol=1e-6)
    rule.begin_sequence()
    rule.begin_pass()
    np.testing.assert_allclose(rule.scores(keys(0, 3), 2), [0.05, 0.025], rtol=1e-5)


def test_lfru_halves_a_use_after_its_half_life():
    rule = create_rule("lfru:half_life=2", RuleContext(num_layers=1, num_experts=3, tier_bytes=TIERS, full_tier=8))
    rule.begin_pass()
    rule.use(keys(0), at(8))
    for _ in range(2):
        rule.begin_pass()
    rule.use(keys(1), at(8))
    np.testing.assert_allclose(rule.scores(keys(0, 1, 2), 0), [0.5, 1, 0])
    for _ in range(2000):
        rule.begin_pass()
    rule.use(keys(2), at(8))
    assert rule.scores(keys(0, 1, 2), 0).argmax() == 2
    assert np.isfinite(rule.scores(keys(0, 1, 2), 0)).all()


def next_use(*, num_layers: int = 1, memory: int = 3, shortest: float = 1.0):
    context = RuleContext(num_layers=num_layers, num_experts=4, tier_bytes=TIERS, full_tier=8, top_k=1)
    return create_rule(f"next-use:shortest={shortest},memory={memory}", context)


def test_next_use_by_hand():
    """Half-lives of 1, 10, 100 and 1,000 passes, and K / E = 1/4, each weighing a fifth before anything is learnt."""
    rule = next_use()
    rule.begin_pass()
    rule.use(keys(0), at(8))
    # used in every pass so far: all four rates are 1; the others have the chance of a layer without favourites
    assert rule.scores(keys(0, 1), 0) == pytest.approx([-1 / (4 / 5 + 1 / 20), -20])
    rule.begin_pass()
    rule.use(keys(1), at(8))
    # the first use was predicted by K / E alone: its weight has gone a third of the way from 1/5 to 1
    weight, constant = 0.2 * 2 / 3, 0.2 + 0.8 / 3
    kept = np.array([2 ** (-1 / h) for h in (1, 10, 100, 1000)])
    rates = kept * (1 - kept) / (1 - kept**2), (1 - kept) / (1 - kept**2)
    old, new = (weight * r.sum() + constant / 4 for r in rates)
    assert rule.scores(keys(0, 1), 0) == pytest.approx([-1 / old, -1 / new])


def test_next_use_learns_which_half_life_predicts():
    """Two experts in turn are predicted by long half-lives alone; then a stretch of one expert by short ones."""
    rule = next_use(shortest=0.1)
    for step in range(60):
        rule.begin_pass()
        rule.use(keys(step % 2), at(8))
    last, before = -rule.scores(keys(1, 0), 0)
    assert last == pytest.approx(before, rel=0.15)
    for _ in range(30):
        rule.begin_pass()
        rule.use(keys(0), at(8))
    again, other = -rule.scores(keys(0, 1), 0)
    assert again < 1.2
    assert other > 3 * again


def test_next_use_knows_nothing_before_the_first_pass():
    rule = next_use()
    assert rule.scores(keys(0, 1), 0).tolist() == [-20, -20]
    rule.use(keys(0), at(8))
    for _ in range(3):
        rule.begin_pass()
    near, far = -rule.scores(keys(0, 1), 0)
    assert near < far < np.inf


def test_next_use_counts_the_layers_to_go():
    rule = next_use(num_layers=4)
    rule.begin_pass()
    for layer in range(4):
        rule.use(keys(4 * layer), at(8))
    waits = -rule.scores(keys(0, 4, 8, 12), 1)  # while layer 1 needs room, layer 2 is next and layer 1 last
    assert (waits - waits[2]) == pytest.approx([2 / 4, 3 / 4, 0, 1 / 4])


def test_next_use_never_rules_a_forecast_out():
    rule = next_use(memory=1)
    for step in range(50):
        rule.begin_pass()
        rule.use(keys(step % 2), at(8))
    assert np.isfinite(rule.scores(keys(0, 1, 2, 3, -1), 0)).all()
    for _ in range(30):
        rule.begin_pass()
        rule.use(keys(2), at(8))
    assert -rule.scores(keys(2), 0)[0] < 2


def test_parameters_of_rules_are_checked():
    with pytest.raises(ConfigError, match="unknown parameter 'lfo'; it takes fld, lfu, lhu, lru"):
        create_rule("mdc:lfo=1", RuleContext(num_layers=1, num_experts=1, tier_bytes=TIERS, full_tier=8))
    with pytest.raises(ConfigError, match="expected one of lru, lcu, lfru, mdc"):
        create_rule("fifo", RuleContext(num_layers=1, num_experts=1, tier_bytes=TIERS, full_tier=8))


def measured_layers(*, skip: float = 1.0, quantise: float = 1.0, counts=((8, 4, 2, 2),)) -> ExpertCalibration:
    """Experts of norm 1 whose error is 0.5 at 4 bits and 0 at 8, each use weighing 1."""
    layers = [
        LayerCalibration(
            i, {}, list(row), {"4": [0.5] * len(row), "8": [0.0] * len(row)}, [1.0] * len(row),
            Sensitivity(quantise, skip, 1.0), [1.0] * len(row),
        )
        for i, row in enumerate(counts)
    ]  # fmt: skip
    return ExpertCalibration(2, layers, 16, 8, [], [])


def test_rate_distortion_scores_planes_and_cores_by_hand():
    """A core (100 bytes) saves 1 - 0.25 = 0.75 nats a use, 0.0075 a byte; a plane (100 bytes) 0.25, 0.0025 a byte."""
    for price, core, plane in ((1.0, 0.0075, 0.0025), (0.01, 0.003, 0.0025), (0.005, 0.0015, 0.0015), (0.0, 1, 1)):
        rule = create_rule(
            "rate-distortion:half_life=1000000",
            RuleContext(
                num_layers=1,
                num_experts=4,
                tier_bytes=TIERS,
                full_tier=8,
                top_k=2,
                capacity=4,
                calibration=measured_layers(),
                price=lambda price=price: price,
            ),
        )
        rule.begin_pass()
        for expert in (0, 0, 1):
            rule.use(keys(expert), at(8))
        assert rule.scores(keys(0, 1), 0) == pytest.approx([2 * core, core], rel=1e-4)
        tiers = np.array([8, 8], np.uint8)
        assert rule.plane_scores(keys(0, 1), tiers, 0) == pytest.approx([2 * plane, plane], rel=1e-4)


@pytest.mark.parametrize("name", ["rate-distortion", "layer-sizes"])
def test_rules_that_need_measurements_say_so(name):
    with pytest.raises(ConfigError, match="--calibrate"):
        create_rule(name, RuleContext(num_layers=1, num_experts=4, tier_bytes=TIERS, full_tier=8))


def test_layer_sizes_by_hand():
    """Counts 8 4 2 2: c of them hold 0, 1/2, 3/4, 7/8, 1 of the uses; K = 2, half the tokens use one: 1.5 loads."""
    loads = expected_loads([2, 8, 2, 4], 2, single=0.5, accuracy=0.2)
    assert loads.tolist() == pytest.approx([1.2, 0.6, 0.3, 0.15, 0.0])
    even = expected_loads([4, 4, 4, 4], 2, single=0.5, accuracy=0.2)
    assert even.tolist() == pytest.approx([1.2, 0.9, 0.6, 0.3, 0.0])
    # one each saves 0.6 + 0.3; a second in the first layer 0.3 as well; a third there only 0.15
    assert divide([loads, even], 3).tolist() in ([2, 1], [1, 2])
    assert divide([loads, even], 5).tolist() in ([2, 3], [1, 4])
    assert divide([loads, even], 8).tolist() == [4, 4]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 20), min_size=4, max_size=4), min_size=1, max_size=3), st.integers(0, 12))
def test_dividing_is_optimal(counts, capacity):
    loads = [expected_loads(row, 2, single=0, accuracy=0) for row in counts]
    found = divide(loads, capacity)
    assert found.sum() <= capacity
    options = itertools.product(range(5), repeat=len(loads))
    best = min(sum(of[c] for of, c in zip(loads, o, strict=True)) for o in options if sum(o) <= capacity)
    assert sum(of[c] for of, c in zip(loads, found, strict=True)) == pytest.approx(best)


def test_a_layer_above_its_size_gives_way_first():
    rule = create_rule(
        "layer-sizes",
        RuleContext(
            num_layers=2,
            num_experts=4,
            tier_bytes=TIERS,
            full_tier=8,
            top_k=2,
            capacity=3,
            calibration=measured_layers(counts=((8, 4, 2, 2), (16, 0, 0, 0))),
        ),
    )
    assert rule.sizes.tolist() == [2, 1]
    for key in (0, 4, 5, 1):  # layer 0 holds 0 and 1, layer 1 holds 0 and 1: one too many
        rule.use(keys(key), at(8))
    order = np.array([0, 4, 5, 1])
    assert order[np.argsort(rule.scores(keys(0, 4, 5, 1), 0))].tolist() == [4, 0, 5, 1]
    assert rule.scores(keys(0, 5, -1), 0)[:2].tolist() == [1, 3], "within their sizes: the order of use"
