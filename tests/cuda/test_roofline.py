"""The arithmetic of tools/roofline.py, by hand, and the table made of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import roofline

BOARD = roofline.Board("by hand", 16, multiprocessors=10, ghz=1.0, memory_gb_s=100, drive_gb_s=2)


def token(**sizes: float) -> roofline.Token:
    base = {"expert_bytes": 150e6, "trunk_bytes": 600e6, "instructions": 1e9, "launches": 200, "stored_bytes": 10e9}
    return roofline.Token(**{**base, **sizes})


def test_a_token_takes_drive_then_memory_then_launches():
    assert roofline.seconds(BOARD, token(), 1.0) == pytest.approx(750e6 / 75e9 + 200 * 5e-6)
    assert roofline.seconds(BOARD, token(), 0.0) == pytest.approx(0.075 + 0.010 + 0.001)
    half = 0.075 * 0.5**1.6
    assert roofline.seconds(BOARD, token(), 0.5) == pytest.approx(half + 0.011)


def test_instructions_count_where_they_take_longer_than_memory():
    assert roofline.seconds(BOARD, token(instructions=25.6e9), 1.0) == pytest.approx(25.6e9 / (10 * 128 * 1e9) + 0.001)


def test_a_share_that_does_not_fit_is_a_dash():
    assert roofline.room_bytes(BOARD, token()) == pytest.approx(12.88 * 2**30 - 600e6)
    assert roofline.cells(BOARD, token(stored_bytes=20e9))[1:] == [
        roofline.speed(1 / (0.075 * 0.5**1.6 + 0.011)),
        "-",
        "-",
    ]


def test_a_token_of_qwen3_30b_is_counted():
    """48 layers of 8 experts of 3 x 2048 x 768 weights."""
    found = roofline.token_of(roofline.spec_of("Qwen3-30B-A3B"), 4)
    weights = 48 * 8 * 3 * 2048 * 768
    assert weights * 0.5625 < found.expert_bytes < weights * 0.5625 * 1.02  # 4 bits, 8 + 8 for 32 inputs, row figures
    assert found.instructions == pytest.approx(weights * roofline.instructions_a_weight(4))
    assert found.launches == 48 * (2 + 1 + 3 + 1 + 5) + 2, "norms, router, attention, its output, experts; the head"
    assert found.stored_bytes == 16 * found.expert_bytes


def test_a_goal_needs_so_many_hits():
    by_hand = 1 - (1 / 20 - 0.011) * 2e9 / 150e6
    assert roofline.hits_needed(BOARD, token(), 20) == pytest.approx(by_hand)
    assert roofline.seconds(BOARD, token(expert_bytes=150e6), 0.0) < 1 / 11
    assert roofline.hits_needed(BOARD, token(), 11) == 0.0
    assert roofline.hits_needed(BOARD, token(), 95) is None
    assert len(list(roofline.goal_rows())) == 2 + len(roofline.GOALS)


def test_what_fits_is_said_for_every_precision():
    found = token(stored_bytes=20e9)
    share = (12.88 * 2**30 - 600e6) / 20e9
    assert roofline.fitting(BOARD, found) == f"{100 * share:.0f} %: {1 / roofline.seconds(BOARD, found, share):.0f}"
    assert roofline.fitting(BOARD, token(trunk_bytes=20e9)) == "-"
    assert len(list(roofline.fitting_rows())) == 2 + 4 * len(roofline.MODELS)


def test_the_page_is_up_to_date():
    assert roofline.main(["--check"]) == 0, "run python tools/roofline.py"
