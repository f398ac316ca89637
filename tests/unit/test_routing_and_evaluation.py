"""The router rule against transformers', pair grouping against a plain loop, quality figures against definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.decoder import PairsByExpert
from edge_runtime.evaluation import QualityMeter, log_softmax
from edge_runtime.policy.base import StepPlan
from edge_runtime.policy.routing import route


@pytest.mark.oracle
@pytest.mark.parametrize("norm", [True, False])
def test_route_equals_torch(norm):
    import torch

    logits = np.random.default_rng(0).normal(0, 2, (64, 24)).astype(np.float32)
    probs = torch.softmax(torch.tensor(logits), -1, dtype=torch.float32)
    weights, ids = torch.topk(probs, 5)
    if norm:
        weights = weights / weights.sum(-1, keepdim=True)
    routing = route(logits, 5, norm_topk_prob=norm)
    assert (routing.topk_ids == ids.numpy()).all()
    np.testing.assert_allclose(routing.topk_weights, weights.numpy(), rtol=2e-6)
    assert routing.topk_ids.dtype == np.int32
    assert routing.topk_weights.dtype == np.float32


def test_equal_logits_go_to_the_lower_index_and_huge_ones_do_not_overflow():
    routing = route(np.array([[1e30, 1e30, 0, 1e30]], np.float32), 2, norm_topk_prob=True)
    assert routing.topk_ids.tolist() == [[0, 1]]
    np.testing.assert_allclose(routing.topk_weights, [[0.5, 0.5]])


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 1 << 30), tokens=st.integers(1, 12), top_k=st.integers(1, 4))
def test_pairs_by_expert_covers_each_pair_once(seed, tokens, top_k):
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(8)[:top_k] for _ in range(tokens)]).astype(np.int32)
    weights = rng.random((tokens, top_k)).astype(np.float32) * (rng.random((tokens, top_k)) > 0.2)
    jobs = PairsByExpert(StepPlan(ids, weights, np.zeros(8, np.uint8)))
    order = rng.permutation(8).astype(np.int32)
    starts, pairs = jobs.of(order)
    for n, expert in enumerate(order):
        expected = [t * top_k + k for t in range(tokens) for k in range(top_k) if ids[t, k] == expert and weights[t, k]]
        assert pairs[starts[n] : starts[n + 1]].tolist() == expected
    assert starts.dtype == pairs.dtype == np.int32


def test_quality_of_identical_logits_is_perfect():
    meter = QualityMeter()
    rows = np.random.default_rng(0).normal(size=(10, 30)).astype(np.float32)
    for i, row in enumerate(rows):
        meter.add(row, row, i if i < 9 else None)
    quality = meter.result()
    assert quality.kld_mean == quality.kld_p99 == 0
    assert quality.top1_agreement == 1
    nll = [-log_softmax(rows[i])[i] for i in range(9)]
    assert quality.ppl == pytest.approx(np.exp(np.mean(nll))) == quality.baseline_ppl


def test_kl_divergence_by_hand():
    meter = QualityMeter()
    p, q = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    meter.add(np.log(p).astype(np.float32), np.log(q).astype(np.float32), 0)
    quality = meter.result()
    assert quality.kld_mean == pytest.approx(float(np.sum(p * np.log(p / q))), rel=1e-6)
    assert quality.ppl == pytest.approx(1 / 0.9, rel=1e-6)
