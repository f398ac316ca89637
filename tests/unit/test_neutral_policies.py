"""Neutral parameters decide exactly as lossless does, whatever is resident: a property of every policy there is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_cases import NEUTRAL, Residents, context, route

from edge_runtime.policy import POLICIES, create_policy

E, K, L = 8, 4, 4


def test_every_policy_has_neutral_parameters():
    assert set(NEUTRAL) == set(POLICIES)


passes = st.lists(
    st.tuples(
        st.sampled_from([1, 1, 1, 5]),
        st.lists(st.sampled_from([0, 2, 4, 6, 8]), min_size=E, max_size=E),
        st.integers(0, 1 << 30),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("name", sorted(NEUTRAL))
@settings(max_examples=60, deadline=None)
@given(history=passes, norm=st.booleans(), scale=st.sampled_from([0.01, 1.0, 30.0]))
def test_neutral_parameters_change_nothing(name, history, norm, scale):
    shape = context(num_experts=E, top_k=K, num_layers=L, norm_topk_prob=norm)
    policy, lossless = create_policy(NEUTRAL[name], shape), create_policy("lossless", shape)
    policy.begin_sequence()
    for tokens, resident, seed, new_text in history:
        if new_text:
            policy.begin_sequence()
        rng = np.random.default_rng(seed)
        residents = Residents(E)
        residents.tiers[:] = resident
        policy.begin_pass(tokens, has_logits=True)
        for layer in range(L):
            # coarse logits have ties, which must go the router's way
            logits = (np.round(rng.standard_normal((tokens, E)) * 4) / 4 * scale).astype(np.float32)
            routing = route(logits, K, norm_topk_prob=norm)
            decision, expected = policy.decide(layer, routing, residents), lossless.decide(layer, routing, residents)
            assert (decision.topk_ids == expected.topk_ids).all()
            assert (decision.topk_weights == expected.topk_weights).all()
            assert (decision.tiers == expected.tiers).all()
            assert (decision.substituted, decision.skipped, decision.route_changed) == (0, 0, 0)
            assert not decision.predicted_kld
        assert policy.accept(np.zeros((1, 16), np.float32))
