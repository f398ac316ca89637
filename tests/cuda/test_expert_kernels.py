"""The expert kernels, run on the CPU by the fake driver, against the numpy reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from cuda.bench import (
    BOUND,
    TIERS,
    Bench,
    Case,
    Ran,
    act_groups,
    expected_end_to_end,
    expected_hidden,
    expected_output,
    is_poison,
    make_case,
    make_expert,
    place,
    run_pairs,
    run_tiles,
    values_of,
)

from edge_runtime.backends.cpu.kernels import reference
from edge_runtime.backends.cuda.launches import BF16, cut_tiles
from edge_runtime.base.spec import ExpertSpec

FLOAT4_TIERS = (2, 4)
CODES = [*((tier, "linear") for tier in TIERS), *((tier, "fp4") for tier in FLOAT4_TIERS)]
"""Every tier with every kind of codes it has."""
PROGRESSIVE = [each for each in CODES if each[0] != BF16]
# groups that are no multiple of eight, or of sixteen; one warp of two idle; several blocks
SHAPES = [(32, 32), (64, 32), (96, 160), (288, 96), (512, 288), (544, 64)]
VARIANTS = {
    "swiglu": ExpertSpec(96),
    "gpt-oss": ExpertSpec(96, bias=True, limit=1.5, alpha=1.702, up_offset=1.0),
    "geglu": ExpertSpec(96, activation="gelu_tanh"),
    "gelu, not gated, biases": ExpertSpec(96, gated=False, activation="gelu_tanh", bias=True),
    "relu2, not gated": ExpertSpec(96, gated=False, activation="relu2"),
    "relu2, gated, clamped": ExpertSpec(96, activation="relu2", limit=0.7),
    "silu, not gated": ExpertSpec(96, gated=False, alpha=1.3),
}
FLOAT4_FORMS: list[dict[str, Any]] = [
    {"bias": True, "limit": 1.5, "alpha": 1.702, "up_offset": 1.0}, {"gated": False},
]  # fmt: skip
IN_COMPANY = ("gelu, not gated, biases", "relu2, gated, clamped")


def check(case: Case, ran: Ran) -> None:
    """Both halves: h up to one step of its int8 where it lies on a tie, y for exactly that h; the rest unwritten."""
    without_ties = 0
    for pair in range(case.pairs):
        expert = case.expert_of(pair)
        if expert is None:
            assert is_poison(ran.y[pair])
            assert is_poison(ran.h[pair])
            continue
        want_h = expected_hidden(case, pair, expert)
        check_hidden(case.tier, ran.h[pair], want_h)
        assert_close(ran.y[pair], expected_output(case, ran, pair, expert), BOUND)
        same = has_codes_of(case.tier, ran.h[pair], want_h)
        assert_close(ran.y[pair], expected_end_to_end(case, pair, expert), BOUND if same else reference.KERNEL_BOUND)
        without_ties += same
    assert without_ties, "no pair shows how far float32 sums alone are off"


def assert_close(found: np.ndarray, want: np.ndarray, bound: float) -> None:
    assert np.abs(found - want).max() <= bound * np.abs(want).max()


def has_codes_of(tier: int, h: np.ndarray, want: np.ndarray) -> bool:
    """Whether all codes of h are the reference's, so that nothing but float32 sums lies between the two."""
    return tier == BF16 or np.array_equal(h["q"], act_groups(want.astype(np.float32)[None])[0]["q"])


def check_hidden(tier: int, h: np.ndarray, want: np.ndarray) -> None:
    top = np.abs(want).max()
    if tier == BF16:
        assert np.abs(h - want).max() <= BOUND * top
        return
    groups = act_groups(want.astype(np.float32)[None])[0]
    np.testing.assert_allclose(h["scale"], groups["scale"], rtol=BOUND, atol=BOUND * top / 127)
    assert np.array_equal(h["sum"], h["q"].astype(np.int32).sum(-1))
    np.testing.assert_allclose(h["scale_sum"], h["scale"] * h["sum"], rtol=1e-6)
    # a code may be the neighbour only where the exact value lies halfway between the two
    steps = want.reshape(-1, 32) / np.where(groups["scale"], groups["scale"], 1)[:, None]
    assert np.abs(h["q"] - steps).max() <= 0.5 + 1e-2


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("tier", "codes"), CODES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_every_tier_and_shape_agrees_with_the_reference(
    bench: Bench, shape: tuple[int, int], tier: int, codes: Literal["linear", "fp4"], seed: int
):
    bench.fake.shim_seed(seed)
    case = make_case(shape[0], ExpertSpec(shape[1], codes=codes), tier, seed)
    alone = run_pairs(bench, case)
    check(case, alone)
    if tier != BF16:
        assert_same_bits(alone, run_tiles(bench, case))


def assert_same_bits(alone: Ran, together: Ran) -> None:
    """Of all that was written, and of what was not."""
    assert alone.h.tobytes() == together.h.tobytes()
    assert alone.y.tobytes() == together.y.tobytes()


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_form_of_expert_agrees_with_the_reference(bench: Bench, name: str, tier: int):
    case = make_case(160, VARIANTS[name], tier, seed=4)
    check(case, run_pairs(bench, case))


@pytest.mark.parametrize("tier", FLOAT4_TIERS)
@pytest.mark.parametrize("shape", [*SHAPES[:4], (544, 64)], ids=lambda shape: f"{shape[0]}x{shape[1]}")
@pytest.mark.parametrize("form", FLOAT4_FORMS)
def test_other_forms_of_4_bit_floats_agree_with_the_reference(
    bench: Bench, shape: tuple[int, int], tier: int, form: dict[str, Any]
):
    case = make_case(shape[0], ExpertSpec(shape[1], codes="fp4", **form), tier, seed=3, tokens=11)
    alone = run_pairs(bench, case)
    check(case, alone)
    assert_same_bits(alone, run_tiles(bench, case))


@pytest.mark.parametrize("tokens", [1, 2, 11, 40])
@pytest.mark.parametrize(("tier", "codes"), PROGRESSIVE)
def test_tokens_in_company_get_the_bits_they_get_alone(
    bench: Bench, tier: int, codes: Literal["linear", "fp4"], tokens: int
):
    form = replace(VARIANTS["swiglu" if tokens > 11 else "gpt-oss"], codes=codes)
    case = make_case(288, form, tier, seed=5, tokens=tokens)
    together = run_tiles(bench, case)
    assert_same_bits(run_pairs(bench, case), together)
    check(case, together)


@pytest.mark.parametrize("name", IN_COMPANY)
def test_other_forms_in_company(bench: Bench, name: str):
    case = make_case(96, VARIANTS[name], 4, seed=6, tokens=7)
    together = run_tiles(bench, case)
    assert_same_bits(run_pairs(bench, case), together)
    check(case, together)


@pytest.mark.parametrize("tier", TIERS)
def test_the_order_of_threads_and_blocks_does_not_matter(bench: Bench, tier: int):
    case = make_case(96, ExpertSpec(160), tier, seed=7)
    results = []
    for seed in (1, 2):
        bench.fake.shim_seed(seed)
        results.append(run_pairs(bench, case))
    assert results[0].y.tobytes() == results[1].y.tobytes()


@pytest.mark.parametrize("tier", TIERS)
def test_a_number_that_is_not_finite_shows_in_the_output(bench: Bench, tier: int):
    case = make_case(64, ExpertSpec(64), tier, seed=8, tokens=2)
    case.x[0, 5] = np.nan if tier != 4 else np.inf
    x = case.x if tier == BF16 else act_groups(np.nan_to_num(case.x, nan=0, posinf=0))
    if tier != BF16:
        x["scale"][0, 0] = x["scale_sum"][0, 0] = np.nan  # as the quantising kernel leaves it
    ran = run_pairs(bench, case, place(bench, case, x))
    for pair in range(case.pairs):
        if case.expert_of(pair) is not None:
            assert np.isnan(ran.y[pair]).all() == (pair < 3)


def test_tiles_have_every_pair_once():
    experts = np.array([3, 0, 3, -1, 1] * 20, np.int32)
    cut, members = cut_tiles(experts, np.array([5, -1, 0, 7], np.int32))
    assert members.tolist() == [p for e in (0, 3) for p in range(100) if experts[p] == e]
    assert [tuple(tile) for tile in cut.tolist()] == [(5, 0, 16), (5, 16, 4), (7, 20, 16), (7, 36, 16), (7, 52, 8)]
    empty, nobody = cut_tiles(experts, np.full(4, -1, np.int32))
    assert len(empty) == len(nobody) == 0


def test_helpers_agree_with_the_reference():
    """What these tests compute for themselves is the reference's own expert."""
    spec, tier = ExpertSpec(32), 8
    case = make_case(64, spec, tier, seed=9)
    expert = make_expert(64, spec, 90)
    h = expected_hidden(case, 0, expert)
    ran = Ran(act_groups(h.astype(np.float32)[None]), np.zeros((1, 64), np.float32))
    want = reference.expert_forward(case.x[:1], reference.decode_expert(expert.segments, 64, 32, tier))[0]
    np.testing.assert_allclose(expected_output(case, ran, 0, expert), want, rtol=1e-5, atol=1e-6)
    assert values_of(ran.h).shape == (1, 32)
