"""What a policy states of itself is so: decisions that read no residency, and decisions that keep no history."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from policy_cases import NEUTRAL, Residents, context, route

from edge_runtime.bundle.calibration import ExpertCalibration, LayerCalibration, Sensitivity
from edge_runtime.policy import POLICIES, create_policy
from edge_runtime.policy.base import Policy
from edge_runtime.policy.wrappers.watching import Watching

E, K, L = 8, 4, 4
ERRORS = {"2": [0.3] * E, "4": [0.1] * E, "6": [0.05] * E, "8": [0.0] * E}
CALIBRATION = ExpertCalibration(
    2,
    [LayerCalibration(i, ERRORS, [1] * E, ERRORS, [2.0] * E, Sensitivity(0.5, 1.0, 0.9)) for i in range(L)],
    tokens=16, full_tier=8, score_quantiles=[i / 100 for i in range(101)], checks=[],
)  # fmt: skip
TEXTS = [
    *sorted(POLICIES),
    "rate-distortion:base=true",
    *(f"{name}:admit=1" for name in ("cache-prior", "max-rank", "cumsum")),
    *NEUTRAL.values(),
]
EXACT = [text for text in TEXTS if text not in NEUTRAL.values()]


def make(text: str) -> Policy:
    return create_policy(text, context(num_experts=E, top_k=K, num_layers=L, calibration=CALIBRATION))


def run_pass(policy: Policy, seed: int, tokens: int, residents_seed: int) -> list[Any]:
    """Run a pass, and once more if its logits are not accepted; return all that was decided and predicted."""
    rng, residency = np.random.default_rng(seed), np.random.default_rng(residents_seed)
    routings = [
        route(rng.standard_normal((tokens, E)).astype(np.float32) * 2, K, norm_topk_prob=True) for _ in range(L)
    ]
    output = rng.standard_normal((1, 16)).astype(np.float32)
    policy.begin_pass(tokens, has_logits=True)
    seen: list[Any] = []
    while True:
        for layer, routing in enumerate(routings):
            residents = Residents(E)
            residents.tiers[:] = residency.choice([0, 0, 2, 4, 8], E)
            seen.append(policy.predict_tiers(layer, routing, residents).tolist())
            d = policy.decide(layer, routing, residents)
            seen.append(
                (d.topk_ids.tolist(), d.topk_weights.tolist(), d.tiers.tolist(), d.substituted, d.skipped,
                 d.route_changed, d.predicted_kld, None if d.use_order is None else d.use_order.tolist(), d.hints)
            )  # fmt: skip
        if policy.accept(output):
            return seen


PASSES = [(seed, tokens) for seed in range(12) for tokens in (1, 1, 3)]
TEXT_PASSES = 18


def differs_by_residency(text: str) -> bool:
    here, there = make(text), make(text)
    return any(run_pass(here, seed, n, seed + 1) != run_pass(there, seed, n, seed + 2) for seed, n in PASSES)


def differs_by_history(text: str) -> bool:
    """Compare a policy that ran passes before, of this and of another text, with fresh ones. Same residents for both."""
    used = make(text)
    used.begin_sequence()
    for number, (seed, tokens) in enumerate(PASSES):
        if number % TEXT_PASSES == 0:
            used.begin_sequence()
        fresh = make(text)
        if number % TEXT_PASSES == 0:
            fresh.begin_sequence()
        if run_pass(used, seed, tokens, seed) != run_pass(fresh, seed, tokens, seed):
            return True
    return False


@pytest.mark.parametrize("text", TEXTS)
def test_what_reads_no_residency_decides_alike_for_any(text):
    assert make(text).reads_residency or not differs_by_residency(text)


@pytest.mark.parametrize("text", TEXTS)
def test_what_keeps_no_history_decides_alike_whatever_came_before(text):
    assert make(text).keeps_history or not differs_by_history(text)


@pytest.mark.parametrize("text", EXACT)
def test_nothing_is_claimed_that_is_not_so(text):
    """With parameters that change something, a policy that says it looks at residency or history does."""
    policy = make(text)
    assert policy.reads_residency == differs_by_residency(text)
    assert policy.keeps_history == differs_by_history(text)


@pytest.mark.parametrize("text", [text for text in TEXTS if make(text).follows_router])
def test_what_follows_the_router_takes_its_choice_at_the_full_tier(text):
    policy, rng = make(text), np.random.default_rng(5)
    for layer in range(L):
        routing = route(rng.standard_normal((3, E)).astype(np.float32) * 2, K, norm_topk_prob=True)
        decision = policy.decide(layer, routing, Residents(E))
        np.testing.assert_array_equal(decision.topk_ids, routing.topk_ids)
        np.testing.assert_array_equal(decision.topk_weights, routing.topk_weights)
        wanted = np.isin(np.arange(E), routing.topk_ids)
        np.testing.assert_array_equal(decision.tiers, np.where(wanted, policy.context.tier, 0))


def test_only_what_decides_nothing_follows_the_router():
    assert {text for text in TEXTS if make(text).follows_router} == {"lossless"}


@pytest.mark.parametrize("text", TEXTS)
def test_a_price_is_a_number_and_a_wrapper_passes_everything_on(text):
    policy = make(text)
    assert policy.price >= 0
    watched = Watching(policy)
    for name in ("name", "reads_residency", "keeps_history", "price", "min_tier", "params"):
        assert getattr(watched, name) == getattr(policy, name)


def test_a_budget_has_a_price_and_no_budget_has_none():
    assert make("rate-distortion").price > 0
    neutral = make("rate-distortion:max_kld=0")
    assert (neutral.price, neutral.reads_residency, neutral.keeps_history) == (0.0, False, False)


def decides_natively(policy: Policy, tokens: int = 1) -> bool:
    policy.begin_pass(tokens, has_logits=True)
    return policy.native is not None


def test_native_code_decides_what_it_decides_alike():
    """Hints, sums in numpy's order and a second pass are Python's."""
    assert {text for text in sorted(POLICIES) if decides_natively(make(text))} == {"cache-prior", "hobbit", "mobile"}
    assert not any(decides_natively(make(text)) for text in ("cache-prior:admit=1", "hobbit:renormalise=true"))
    mobile = make("mobile:threshold=1")
    assert not decides_natively(mobile, tokens=2)
    assert decides_natively(mobile)
    assert not mobile.accept(np.zeros((1, 9), np.float32))
    assert mobile.native is None


@pytest.mark.parametrize("text", TEXTS)
def test_whoever_watches_sees_every_decision(text):
    assert not decides_natively(Watching(make(text)))
