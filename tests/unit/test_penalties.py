"""Penalties over answers with many different tokens, against the formula written out."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.engine.penalties import Penalties

VOCABULARY = 400


@pytest.mark.parametrize("repetition", [1.0, 1.3])
@pytest.mark.parametrize(("presence", "frequency"), [(0.5, 0.0), (0.0, 0.25), (-0.75, 1.5), (0.0, 0.0)])
def test_every_token_is_counted_however_many_there_are(repetition: float, presence: float, frequency: float) -> None:
    rng = np.random.default_rng(3)
    prompt = rng.integers(0, VOCABULARY, 70).astype(np.int32)
    answer = np.concatenate([rng.permutation(VOCABULARY)[:300], rng.integers(0, VOCABULARY, 100)])
    penalties = Penalties(prompt, repetition=repetition, presence=presence, frequency=frequency)
    counts = np.zeros(VOCABULARY)
    for token in answer.tolist():
        penalties.note(token)
        counts[token] += 1
    logits = rng.standard_normal(VOCABULARY, dtype=np.float32)
    seen = counts > 0
    seen[prompt] = True
    expected = logits.astype(np.float64)
    expected = np.where(seen, np.where(expected > 0, expected / repetition, expected * repetition), expected)
    expected -= frequency * counts + presence * (counts > 0)
    np.testing.assert_allclose(penalties.apply(logits), expected, rtol=1e-6, atol=1e-6)


def test_a_long_answer_with_penalties_ends_as_asked(model_bundle) -> None:
    from edge_runtime.engine.api import Engine
    from edge_runtime.engine.sampler import SamplingParams

    params = SamplingParams(max_tokens=150, temperature=1.5, presence_penalty=1.5, seed=2, ignore_eos=True)
    with Engine.open(model_bundle, context=256, threads=1, self_check=False) as engine:
        report = engine.generate("Once", params)
    assert len(report.token_ids) == 150
    assert len(set(report.token_ids)) > 64, "more than the arrays begin with"
