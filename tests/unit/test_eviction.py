"""Eviction rules: LRU, and LCU worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.experts.eviction import Lcu, Lru, create_rule

TIERS = {4: 100, 8: 200}


def at(tier: int) -> np.ndarray:
    return np.array([tier], np.uint8)  # the same for every key


def keys(*values: int) -> np.ndarray:
    return np.array(values, np.intp)


def test_lru_prefers_the_longest_unused():
    rule = Lru(2, 4)
    for key in (5, 1, 3, 1):
        rule.use(keys(key), at(8))
    assert np.argsort(rule.scores(keys(1, 3, 5), 0)).tolist() == [2, 1, 0]
    rule.begin_sequence()
    assert np.argsort(rule.scores(keys(1, 3, 5), 0)).tolist() == [2, 1, 0]


def test_lcu_by_hand():
    # L = 4 layers, E = 2 experts: key = 2 * layer + expert
    rule = Lcu(4, 2, TIERS, 8)
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
    rule = Lcu(4, 2, TIERS, 8)
    rule.begin_pass()
    rule.use(keys(2, 4), at(8))
    rule.begin_pass()
    near, far = rule.scores(keys(4, 2), 2)
    assert near == pytest.approx(0.5 + 1 / 0.1)
    assert far == pytest.approx(0.5 + 1 / 3.1)


def test_lcu_forgets_a_sequence():
    rule = Lcu(2, 2, TIERS, 8)
    rule.begin_pass()
    rule.use(keys(0, 1), at(8))
    rule.begin_sequence()
    rule.begin_pass()
    assert rule.scores(keys(0, 1, 2), 0).tolist() == [0, 0, 0]


def test_lcu_counts_only_the_previous_pass_as_previous():
    rule = Lcu(1, 2, TIERS, 8)
    rule.begin_pass()
    rule.use(keys(0), at(8))
    assert rule.scores(keys(0), 0)[0] == pytest.approx(1.0)
    rule.begin_pass()
    assert rule.scores(keys(0), 0)[0] == pytest.approx(0.5 + 10)
    rule.begin_pass()
    assert rule.scores(keys(0), 0)[0] == pytest.approx(1 / 3)


def test_scores_are_fresh_arrays():
    for rule in (Lru(1, 4), Lcu(1, 4, TIERS, 8)):
        rule.scores(keys(0, 1), 0)[:] = 7
        assert (rule.scores(keys(0, 1), 0) == 0).all()


def test_rules_by_name():
    options = {"num_layers": 1, "num_experts": 2, "tier_bytes": TIERS, "full_tier": 8}
    assert create_rule("lru", **options).name == "lru"
    assert create_rule("lcu", **options).name == "lcu"
    with pytest.raises(ConfigError, match=r"eviction: expected one of lru, lcu, lfru, mdc, got 'lcv'\. Did you mean"):
        create_rule("lcv", **options)


def test_multidimensional_by_hand():
    rule = create_rule(
        "mdc:lru=0.4,lfu=0.3,lhu=0.2,fld=0.1", num_layers=4, num_experts=2, tier_bytes=TIERS, full_tier=8
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
    rule = create_rule("lfru:half_life=2", num_layers=1, num_experts=3, tier_bytes=TIERS, full_tier=8)
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


def test_parameters_of_rules_are_checked():
    with pytest.raises(ConfigError, match="unknown parameter 'lfo'; it takes fld, lfu, lhu, lru"):
        create_rule("mdc:lfo=1", num_layers=1, num_experts=1, tier_bytes=TIERS, full_tier=8)
    with pytest.raises(ConfigError, match="expected one of lru, lcu, lfru, mdc"):
        create_rule("fifo", num_layers=1, num_experts=1, tier_bytes=TIERS, full_tier=8)
