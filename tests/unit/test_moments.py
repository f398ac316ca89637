"""Moments of few tokens: codes fitted to them lose little where there is nothing to gain, and gain where there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hobbit_export.statistics.moments import MomentSums, read_moments
from hobbit_export.trunk.feedback import Feedback
from hobbit_export.trunk.quantize import dequantize_rows, quantize_rows

INPUTS, BLOCK = 256, 128


def ratio(tokens: int, large: float, folder: Path) -> float:
    """Squared error on other inputs, next to plain rounding's; `large`: size of eight directions beside white noise."""
    rng = np.random.default_rng(tokens)
    weight = rng.standard_normal((64, INPUTS)).astype(np.float32)
    mixed = np.eye(INPUTS) + large * rng.standard_normal((INPUTS, 8)) @ rng.standard_normal((8, INPUTS)) / 8
    seen, other = ((rng.standard_normal((n, INPUTS)) @ mixed).astype(np.float32) for n in (tokens, 4096))
    sums = MomentSums(distinct=tokens)
    for part in np.split(seen, 4):
        sums.add("o", part)
    sums.save(folder / "moments.npz")
    fitted = Feedback(read_moments(folder / "moments.npz")["o"], INPUTS).quantize(weight, BLOCK)
    errors = [
        float(np.square((weight - dequantize_rows(codes, 4, INPUTS)) @ other.T).sum())
        for codes in (fitted, quantize_rows(weight, 4, BLOCK))
    ]
    return errors[0] / errors[1]


@pytest.mark.parametrize("tokens", [128, 256, 2048])
def test_few_tokens_do_little_harm_and_much_good(tokens: int, tmp_path: Path) -> None:
    assert ratio(tokens, 0.0, tmp_path) < 1.2  # 1.8 to 2.1 of few tokens taken at their word
    assert ratio(tokens, 1.0, tmp_path) < 0.15


def repeated(distinct: int, counted: int, folder: Path) -> float:
    """Squared error on other inputs, next to plain rounding's, of 4096 inputs that are a few coming again and again."""
    rng = np.random.default_rng(distinct)
    weight = rng.standard_normal((64, INPUTS)).astype(np.float32)
    few, other = (rng.standard_normal((n, INPUTS)).astype(np.float32) for n in (distinct, 4096))
    sums = MomentSums(counted)
    sums.add("o", few[rng.integers(0, distinct, 4096)])
    sums.save(folder / "moments.npz")
    fitted = Feedback(read_moments(folder / "moments.npz")["o"], INPUTS).quantize(weight, BLOCK)
    errors = [
        float(np.square((weight - dequantize_rows(codes, 4, INPUTS)) @ other.T).sum())
        for codes in (fitted, quantize_rows(weight, 4, BLOCK))
    ]
    return errors[0] / errors[1]


@pytest.mark.parametrize("distinct", [32, 128])
def test_tokens_that_come_again_count_once(distinct: int, tmp_path: Path) -> None:
    taken_for_many, counted = (repeated(distinct, n, tmp_path) for n in (4096, distinct))
    assert counted < 1.2 < taken_for_many
