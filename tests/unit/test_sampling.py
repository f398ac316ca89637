"""Sampling against transformers' own logits processors, and the properties users rely on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.base.errors import RequestError
from edge_runtime.engine.sampler import Sampler, SamplingParams, filtered_distribution

EMPTY = np.zeros(0, np.int32)


def logits_of(seed: int, size: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)


@pytest.mark.oracle
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.2, 3),
    top_k=st.integers(0, 60),
    top_p=st.floats(0.05, 0.9999) | st.just(1.0),
    min_p=st.floats(0, 0.9),
)
def test_distribution_equals_transformers(seed, temperature, top_k, top_p, min_p):
    import torch
    from transformers.generation import (
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    logits = logits_of(seed)
    scores = TemperatureLogitsWarper(temperature)(None, torch.tensor(logits[None].astype(np.float64)))
    if top_k:
        scores = TopKLogitsWarper(min(top_k, 50))(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    if min_p:
        scores = MinPLogitsWarper(min_p)(None, scores)
    expected = torch.softmax(scores, -1)[0].numpy()
    ids, probs = filtered_distribution(
        logits, SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    )
    ours = np.zeros(50)
    ours[ids] = probs
    np.testing.assert_allclose(ours, expected, atol=1e-9)


@pytest.mark.oracle
@pytest.mark.parametrize(("top_p", "min_p"), [(0.5, 0), (0.95, 0), (0.999, 0), (1, 0.1), (0.9, 0.05), (1, 0)])
def test_a_large_vocabulary_equals_transformers(top_p, min_p):
    """Most of its tokens are not looked at in float64."""
    import torch
    from transformers.generation import MinPLogitsWarper, TopPLogitsWarper

    logits = logits_of(5, 40_000)
    expected = torch.tensor(logits[None].astype(np.float64))
    expected = TopPLogitsWarper(top_p)(None, expected) if top_p < 1 else expected
    expected = MinPLogitsWarper(min_p)(None, expected) if min_p else expected
    ids, probs = filtered_distribution(logits, SamplingParams(temperature=1.0, top_p=top_p, min_p=min_p))
    ours = np.zeros(len(logits))
    ours[ids] = probs
    np.testing.assert_allclose(ours, torch.softmax(expected, -1)[0].numpy(), atol=1e-9)


@pytest.mark.oracle
def test_repetition_penalty_equals_transformers():
    import torch
    from transformers.generation import RepetitionPenaltyLogitsProcessor

    for seed in range(20):
        logits = logits_of(seed)
        prompt = np.random.default_rng(seed).integers(0, 50, 12).astype(np.int32)
        processor = RepetitionPenaltyLogitsProcessor(1.7)
        expected = processor(torch.tensor(prompt[None].astype(np.int64)), torch.tensor(logits[None]))
        assert Sampler(SamplingParams(repetition_penalty=1.7), prompt).sample(logits) == int(expected.argmax())


def test_greedy_takes_the_first_maximum_and_leaves_logits_alone():
    logits = np.array([1, 5, 5, 2], np.float32)
    before = logits.copy()
    assert Sampler(SamplingParams(repetition_penalty=2.0), np.array([0], np.int32)).sample(logits) == 1
    assert (logits == before).all()


def test_penalty_counts_generated_tokens():
    sampler = Sampler(SamplingParams(repetition_penalty=3.0), EMPTY)
    logits = np.array([3.0, 2.0, -1.0], np.float32)
    assert [sampler.sample(logits) for _ in range(3)] == [0, 1, 0]


def test_a_temperature_next_to_zero_is_greedy():
    logits = logits_of(3)
    assert Sampler(SamplingParams(temperature=1e-310), EMPTY).sample(logits) == int(logits.argmax())


def test_seed_reproduces_and_differs():
    logits = logits_of(1)

    def draw(seed: int) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=1.0, seed=seed), EMPTY)
        return [sampler.sample(logits) for _ in range(20)]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


def test_frequencies_follow_the_distribution():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(SamplingParams(temperature=1.0, seed=0), EMPTY)
    counts = np.bincount([sampler.sample(logits) for _ in range(8000)], minlength=4) / 8000
    np.testing.assert_allclose(counts, [0.5, 0.3, 0.15, 0.05], atol=0.025)


class _Drawn:
    """Stands in for the random stream."""

    def __init__(self, value: float) -> None:
        self._value = value

    def random(self) -> float:
        return self._value


@pytest.mark.parametrize("params", [{}, {"top_p": 0.9}, {"min_p": 0.1}, {"top_k": 3}])
@pytest.mark.parametrize("value", [0.0, 0.3, 0.7, 1 - 2**-53])
def test_what_is_not_allowed_is_never_drawn(params, value, monkeypatch):
    monkeypatch.setattr(np.random, "default_rng", lambda seed: _Drawn(value))
    logits = np.array([-np.inf, 0.5, 1.0, -200, 0.2, -np.inf], np.float32)
    assert Sampler(SamplingParams(temperature=1.0, **params), EMPTY).sample(logits) in (1, 2, 4)


def test_a_draw_is_the_token_whose_share_of_the_whole_it_falls_into(monkeypatch):
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    for value, token in ((0.49, 0), (0.51, 1), (0.79, 1), (0.81, 2), (0.949, 2), (0.951, 3)):
        monkeypatch.setattr(np.random, "default_rng", lambda seed, value=value: _Drawn(value))
        assert Sampler(SamplingParams(temperature=1.0), EMPTY).sample(logits) == token


def by_definition(logits, prompt, generated, params) -> np.ndarray:
    """Logits as documentation of the parameters has them, token by token."""
    out = logits.astype(np.float64)
    for token in range(len(out)):
        out[token] += params.logit_bias.get(token, 0)
        if token in prompt or token in generated:
            out[token] = (
                out[token] / params.repetition_penalty if out[token] > 0 else out[token] * params.repetition_penalty
            )
        count = generated.count(token)
        out[token] -= count * params.frequency_penalty + (count > 0) * params.presence_penalty
    return out


@settings(deadline=None)
@given(
    seed=st.integers(0, 1000),
    presence=st.sampled_from([0.0, 0.7, 2.0, -2.0]),
    frequency=st.sampled_from([0.0, 0.3, 2.0, -0.5]),
    repetition=st.sampled_from([1.0, 1.3, 0.8]),
    bias=st.dictionaries(st.integers(0, 19), st.floats(-100, 100, width=32), max_size=5),
    temperature=st.sampled_from([0.0, 0.8]),
)
def test_penalties_and_bias_follow_their_definition(seed, presence, frequency, repetition, bias, temperature):
    """Greedy, and drawn: the same draws as of a sampler that gets logits changed by hand."""
    params = {
        "presence_penalty": presence, "frequency_penalty": frequency, "repetition_penalty": repetition, "logit_bias": bias,
    }  # fmt: skip
    rng = np.random.default_rng(seed)
    prompt = rng.integers(0, 20, 6).astype(np.int32)
    changed = SamplingParams(temperature=temperature, top_p=0.9, seed=seed, **params)
    ours = Sampler(changed, prompt)
    plain = Sampler(SamplingParams(temperature=temperature, top_p=0.9, seed=seed), prompt)
    generated: list[int] = []
    differ = 0
    for _ in range(80):
        logits = rng.normal(0, 2, 20).astype(np.float32)
        before = logits.copy()
        wanted = by_definition(logits, prompt.tolist(), generated, changed).astype(np.float32)
        generated.append(ours.sample(logits))
        differ += plain.sample(wanted) != generated[-1]
        assert (logits == before).all()
    assert differ <= 1, "a rounding error may move one draw of many across a border"


def test_a_presence_penalty_counts_once_and_a_frequency_penalty_each_time():
    logits = np.array([3.0, 2.5, 0.0], np.float32)

    def first(count: int, **params: float) -> list[int]:
        sampler = Sampler(SamplingParams(**params), np.array([0, 0, 0], np.int32))
        return [sampler.sample(logits) for _ in range(count)]

    assert first(5) == [0] * 5
    # the prompt is not counted: 3.0, then 2.4 against 2.5, then 2.4 against 1.9
    assert first(5, presence_penalty=0.6) == [0, 1, 0, 0, 0]
    # 3.0; 2.7; 2.4 against 2.5; 2.4 against 2.2; 2.1 against 2.2
    assert first(5, frequency_penalty=0.3) == [0, 0, 1, 0, 1]
    assert first(5, presence_penalty=-1.0) == [0] * 5
    # one of each: 3.0, 1.9 against 2.5, 1.9 against 1.4
    assert first(4, presence_penalty=1.0, frequency_penalty=0.1) == [0, 1, 0, 0]


@pytest.mark.parametrize("penalty", [5e-324, 1e-300, 1e-39, 100.0])
@pytest.mark.parametrize("more", [{}, {"top_p": 0.5}, {"min_p": 0.3}, {"top_k": 2}, {"temperature": 0.0}])
def test_a_penalty_of_any_size_leaves_numbers_to_draw_from(penalty, more):
    logits = np.array([0.0, 3.0, -2.0, 1e30, -1e30], np.float32)
    params = SamplingParams(**{"temperature": 1.0, "repetition_penalty": penalty, "seed": 1} | more)
    sampler = Sampler(params, np.arange(5, dtype=np.int32))
    assert all(sampler.sample(logits) in range(5) for _ in range(5))


def test_a_bias_bans_and_forces():
    logits = logits_of(3)
    best = int(logits.argmax())
    ban = {best: -100}
    assert Sampler(SamplingParams(logit_bias=ban), EMPTY).sample(logits) != best
    for temperature in (0.0, 1.0):
        params = SamplingParams(temperature=temperature, logit_bias={7: 100}, seed=1)
        sampler = Sampler(params, EMPTY)
        assert [sampler.sample(logits) for _ in range(5)] == [7] * 5
    ban[3] = 5.0  # what a caller does later with its own object changes nothing
    assert SamplingParams(logit_bias=ban).logit_bias is not ban


class _Only:
    """A constraint that allows some tokens."""

    is_complete = False

    def __init__(self, *tokens: int) -> None:
        self._tokens = list(tokens)

    def allowed(self) -> np.ndarray:
        mask = np.zeros(4, np.bool_)
        mask[self._tokens] = True
        return mask

    def accept(self, token_id: int) -> None:
        pass


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_constraint_rules_over_bias_and_penalties(temperature):
    logits = np.array([5.0, 1.0, 1.5, 0.0], np.float32)
    forced = SamplingParams(temperature=temperature, logit_bias={0: 100, 1: 50}, frequency_penalty=2.0, seed=3)
    sampler = Sampler(forced, EMPTY, _Only(1, 2))
    assert [sampler.sample(logits) for _ in range(3)] == [1, 1, 1]
    alternating = SamplingParams(temperature=0, frequency_penalty=1.0)
    sampler = Sampler(alternating, EMPTY, _Only(1, 2))
    assert [sampler.sample(logits) for _ in range(4)] == [2, 1, 2, 1]


def test_token_ids_are_checked_against_the_vocabulary():
    SamplingParams(logit_bias={49: 1}).require_vocabulary(50)
    for token in (50, -1, 1 << 40):
        with pytest.raises(RequestError, match=f"token id {token} is outside the vocabulary of 50"):
            SamplingParams(logit_bias={token: 1}).require_vocabulary(50)


def test_a_default_request_is_drawn_from_the_logits_as_they_are():
    """Nothing is copied or looked up for penalties nobody asked for."""
    assert not SamplingParams(temperature=1.0, top_p=0.9).changes_logits
    for one in (
        {"presence_penalty": 0.1},
        {"frequency_penalty": -1},
        {"logit_bias": {1: 0.0}},
        {"repetition_penalty": 2},
    ):
        assert SamplingParams(**one).changes_logits


@pytest.mark.parametrize(
    "bad",
    [
        {"presence_penalty": float("nan")},
        {"frequency_penalty": 101},
        {"presence_penalty": float("inf")},
        {"logit_bias": {5: 101}},
        {"logit_bias": {5: float("nan")}},
        {"logit_bias": {"5": 1}},
        {"logit_bias": {5: "1"}},
        {"logit_bias": {True: 1}},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"max_tokens": 2.5},
        {"max_tokens": "5"},
        {"top_k": 1.5},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"min_p": 2},
        {"max_tokens": 0},
        {"repetition_penalty": 0},
        {"stop": ("",)},
        {"seed": -1},
    ],
)
def test_bad_parameters_are_named(bad):
    with pytest.raises(RequestError, match=f"sampling: {next(iter(bad))}: expected"):
        SamplingParams(**bad)


def test_broken_logits_are_an_error_not_a_token():
    with pytest.raises(RequestError, match="finite"):
        Sampler(SamplingParams(), EMPTY).sample(np.array([1, np.nan], np.float32))
