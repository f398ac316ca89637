"""The other published policies on examples worked by hand from their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from policy_cases import Residents, context, routed

from edge_runtime.base.errors import ConfigError
from edge_runtime.bundle.calibration import ExpertCalibration, LayerCalibration, Sensitivity
from edge_runtime.policy import create_policy
from edge_runtime.policy.static_tiers import allocate, mean_bytes, pruned


def used(decision) -> dict[int, int]:
    return {int(e): int(decision.tiers[e]) for e in np.flatnonzero(decision.tiers)}


def calibration(skip: float = 0.5, **layer) -> ExpertCalibration:
    rising = [0.1 * (e + 1) for e in range(8)]
    errors = {"2": rising, "4": [e / 4 for e in rising], "6": [e / 16 for e in rising], "8": [0.0] * 8}
    defaults = {"errors": errors, "output_errors": errors, "counts": [8 - e for e in range(8)], "norms": [2.0] * 8}
    one = [LayerCalibration(i, sensitivity=Sensitivity(0.1, skip, 0.3), **(defaults | layer)) for i in range(4)]
    quantiles = [min(i / 100, 1.0) ** 0.5 for i in range(101)]
    return ExpertCalibration(2, one, tokens=100, full_tier=8, score_quantiles=quantiles)


# Not All Experts Are Equal: drop w_i < beta w_0


def test_skip_by_hand():
    routing = routed(0.5, 0.26, 0.24, top_k=3)  # ratios 1, 0.52, 0.48
    decision = create_policy("skip:beta=0.5", context(top_k=3)).decide(0, routing, Residents())
    assert (used(decision), decision.skipped) == ({0: 8, 1: 8}, 1)
    np.testing.assert_allclose(decision.topk_weights, [[0.5 / 0.76, 0.26 / 0.76, 0]], rtol=1e-5)


def test_skip_has_a_threshold_for_each_layer():
    policy = create_policy("skip:beta=0/0.5/0.53/1", context(top_k=3))
    routing = routed(0.5, 0.26, 0.24, top_k=3)
    assert [policy.decide(layer, routing, Residents()).skipped for layer in range(4)] == [0, 1, 2, 2]
    for text, message in (("0.1/0.2", "expected 1 or 4 values"), ("x", "expected numbers"), ("2", "expected 0 to 1")):
        with pytest.raises(ConfigError, match=message):
            create_policy(f"skip:beta={text}", context())


# LExI


def test_lexi_by_hand():
    policy = create_policy("lexi:k=4/1/2/0", context())
    decisions = [policy.decide(layer, routed(0.4, 0.3, 0.2, 0.1), Residents()) for layer in range(4)]
    assert [len(used(decision)) for decision in decisions] == [4, 1, 2, 3]
    np.testing.assert_allclose(decisions[2].topk_weights, [[4 / 7, 3 / 7, 0, 0]], rtol=1e-5)


# AdapMoE: drop the tail w if h_l w^2 < tau


def test_adapmoe_by_hand():
    # h = 0.5 nats x 2^2 = 2; tails 1, 0.5, 0.3, 0.1 cost 2, 0.5, 0.18, 0.02
    routing = routed(0.5, 0.2, 0.2, 0.1)
    for tau, kept, predicted in ((0.01, 4, 0.0), (0.021, 3, 0.02), (0.2, 2, 0.18), (9, 1, 0.5)):
        decision = create_policy(f"adapmoe:tau={tau}", context(calibration=calibration())).decide(
            0, routing, Residents()
        )
        assert (len(used(decision)), decision.skipped) == (kept, 4 - kept), tau
        assert decision.predicted_kld == pytest.approx(predicted, abs=1e-5)


def test_adapmoe_needs_sensitivities():
    with pytest.raises(ConfigError, match="--calibrate"):
        create_policy("adapmoe", context())


# SMoE: replace missing experts in [S, (1 + a) S) by residents in ((1 - a) S, S]


def test_smoe_by_hand():
    # S = 0.16 (third of top 2); a = 0.25: window to 0.2 above, from 0.12 below
    routing = routed(0.4, 0.19, 0.16, 0.14, 0.11, top_k=2)
    policy = create_policy("smoe:alpha=0.25", context(top_k=2))

    def chosen(**residents: int) -> list[int]:
        return policy.decide(0, routing, Residents(**residents)).topk_ids[0].tolist()

    assert chosen(e0=8, e3=8) == [0, 3]
    assert chosen(e0=8, e2=8, e3=8) == [0, 2], "the best resident in the window"
    assert chosen(e0=8, e4=8) == [0, 1], "0.11 is below the window"
    assert chosen(e1=8, e2=8) == [0, 1], "0.4 is protected though it is missing"
    assert chosen(e0=8) == [0, 1], "nothing resident to take its place"
    decision = policy.decide(0, routing, Residents(e0=8, e3=8))
    assert decision.route_changed == 1
    np.testing.assert_allclose(decision.topk_weights, [[0.4 / 0.54, 0.14 / 0.54]], rtol=1e-4)


# EdgeMoE and MC#: static tiers


def test_allocation_by_hand():
    # two experts; planes of 20 bytes on a base of 30. Expert 1 gains 6 for its first plane, expert 0 gains 3
    costs = {2: np.array([[4.0, 8.0]]), 4: np.array([[1.0, 2.0]]), 8: np.array([[0.0, 0.0]])}
    sizes = {2: 30, 4: 50, 8: 90}
    assert allocate(costs, sizes, 30).tolist() == [[2, 2]]
    assert allocate(costs, sizes, 40).tolist() == [[2, 4]]
    assert allocate(costs, sizes, 50).tolist() == [[4, 4]]
    assert allocate(costs, sizes, 70).tolist() == [[4, 8]]
    assert allocate(costs, sizes, 90).tolist() == [[8, 8]]


def test_a_step_may_span_tiers():
    costs = {2: np.array([[9.0]]), 4: np.array([[9.0]]), 8: np.array([[0.0]])}
    assert allocate(costs, {2: 30, 4: 50, 8: 90}, 90).tolist() == [[8]]


def test_edgemoe_gives_sensitive_experts_more_bits_within_the_mean():
    shape = context(calibration=calibration())
    policy = create_policy("edgemoe:bits=4", shape)
    everyone = routed(*[1 / 8] * 8, top_k=8)
    tiers = policy.decide(0, everyone, Residents()).tiers
    assert tiers[7] > tiers[0]
    assert (np.diff(tiers.astype(int)) >= 0).all()
    mean = np.mean([shape.tier_bytes[int(t)] for t in tiers])
    assert mean <= mean_bytes(shape, 4) == 50
    assert policy.min_tier == 2
    with pytest.raises(ConfigError, match="--calibrate"):
        create_policy("edgemoe", context())


def test_mcsharp_weighs_by_use_and_prunes_the_tail():
    counts = [100, 1, 1, 1, 1, 1, 1, 1]
    policy = create_policy("mcsharp:bits=3,prune=0.15", context(calibration=calibration(counts=counts)))
    decision = policy.decide(0, routed(0.5, 0.3, 0.1, 0.1), Residents())
    assert decision.tiers[0] > decision.tiers[1]
    assert decision.skipped == 1
    weights = pruned(np.array([[0.5, 0.3, 0.1, 0.1]], np.float32), 0.25)
    np.testing.assert_allclose(weights, [[0.625, 0.375, 0, 0]], rtol=1e-5)


# HOBBIT's thresholds from the calibration's scores


def test_hobbit_takes_thresholds_from_quantiles():
    policy = create_policy("hobbit:quantiles=true", context(calibration=calibration()))
    assert policy.params["t1"] == pytest.approx(0.67**0.5)
    assert policy.params["t2"] == pytest.approx(0.97**0.5)
    with pytest.raises(ConfigError, match="--calibrate"):
        create_policy("hobbit:quantiles=true", context())


@pytest.mark.parametrize("policy", ["hobbit", "edgemoe:bits=4", "mcsharp"])
def test_bfloat16_cannot_be_mixed_with_lower_tiers(policy):
    with pytest.raises(ConfigError, match="bfloat16 records have no lower tiers"):
        create_policy(policy, context(tier=16, tier_bytes={8: 90, 16: 200}, calibration=calibration()))
