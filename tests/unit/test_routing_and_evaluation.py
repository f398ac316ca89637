"""The router rule against transformers', quality figures against definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_cases import route

from edge_runtime.lab.evaluation import QualityMeter, log_softmax


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
@given(seed=st.integers(0, 1 << 30), tokens=st.integers(1, 5), experts=st.integers(1, 40), norm=st.booleans())
def test_route_equals_a_plain_sort(seed, tokens, experts, norm):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (tokens, experts)).astype(np.float32).round(int(rng.integers(0, 3)))  # with ties
    top_k = int(rng.integers(1, experts + 1))
    routing = route(logits, top_k, norm_topk_prob=norm)
    assert (routing.topk_ids == np.argsort(-logits, axis=1, kind="stable")[:, :top_k]).all()
    chance = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    weights = np.take_along_axis(chance, routing.topk_ids.astype(np.intp), axis=1)
    weights /= (weights if norm else chance).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(routing.topk_weights, weights, rtol=2e-6, atol=1e-37)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_show_in_the_weights(bad):
    logits = np.array([[1, 2, bad, 3], [1, 2, 3, 4]], np.float32)
    routing = route(logits, 2, norm_topk_prob=True)
    assert np.isnan(routing.topk_weights[0]).all()
    assert ((routing.topk_ids >= 0) & (routing.topk_ids < 4)).all()
    assert np.isfinite(routing.topk_weights[1]).all()


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
