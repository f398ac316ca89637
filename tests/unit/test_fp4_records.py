"""Records of 4-bit floats: they lose nothing, every instruction set computes the same bits, and these are right."""

from __future__ import annotations

import kernel_cases
import numpy as np
import pytest

from edge_runtime.backends.cpu.kernels import ExpertEncoder, ExpertKernels, available_isas, reference
from edge_runtime.base.spec import ExpertSpec

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
HIDDEN, INTERMEDIATE, EXPERTS, TOP_K = 96, 64, 4, 2
SHAPES = [(INTERMEDIATE, HIDDEN), (INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)]


def floats(rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    """Any codes at all, under scales that differ by forty powers of two in a row; some groups are zero."""
    codes = E2M1[rng.integers(0, 16, (rows, cols // 32, 32))]
    powers = np.ldexp(np.float32(1), rng.integers(-30, 10, (rows, cols // 32, 1)))
    codes[rng.random((rows, cols // 32)) < 0.1] = 0
    return np.asarray((codes * powers.astype(np.float32)).reshape(rows, cols))


def even(rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    """Weights such as a model has: scales differ by a few powers of two."""
    codes = E2M1[rng.integers(0, 16, (rows, cols // 32, 32))]
    powers = np.ldexp(np.float32(1), rng.integers(-7, -4, (rows, cols // 32, 1)))
    return np.asarray((codes * powers.astype(np.float32)).reshape(rows, cols))


def encode(matrices: list[np.ndarray], segments: int = 2, threads: int = 1) -> ExpertEncoder:
    encoder = ExpertEncoder(
        0, 0, matrices[0].shape[1], len(matrices[0]), segments, bf16=True, threads=threads, codes="fp4"
    )
    for number, rows in enumerate(matrices):
        encoder.add_rows(number, 0, rows, "f32")
    encoder.finish()
    return encoder


def test_nothing_is_lost() -> None:
    matrices = [floats(np.random.default_rng(i), *shape) for i, shape in enumerate(SHAPES)]
    encoder = encode(matrices, threads=2)
    segments = [encoder.segment(i) for i in range(2)]
    decoded = reference.decode_expert(segments, HIDDEN, INTERMEDIATE, 4, codes="fp4")
    for got, wanted in zip(decoded, matrices, strict=True):
        assert np.array_equal(got, wanted)
    errors = encoder.errors()
    assert errors[4] == 0
    coarse = reference.decode_expert(segments, HIDDEN, INTERMEDIATE, 2, codes="fp4")
    diff = sum(float(np.sum((a.astype(np.float64) - b) ** 2)) for a, b in zip(coarse, matrices, strict=True))
    total = sum(float(np.sum(np.square(b, dtype=np.float64))) for b in matrices)
    assert errors[2] == pytest.approx(np.sqrt(diff / total), rel=1e-5)
    assert 0.1 < errors[2] < 0.5
    for i in range(2):
        assert np.array_equal(encode(matrices).segment(i), segments[i])


def test_the_coarse_tier_of_gaussian_weights_is_as_good_as_that_of_other_records() -> None:
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    nearest = []
    for matrix in weights:
        groups = matrix.reshape(len(matrix), -1, 32)
        powers = np.exp2(np.floor(np.log2(np.abs(groups).max(2, keepdims=True))) - 2)
        at = np.abs((groups / powers)[..., None] - E2M1).argmin(-1)
        nearest.append((E2M1[at] * powers).astype(np.float32).reshape(matrix.shape))
    plain = ExpertEncoder(0, 0, HIDDEN, INTERMEDIATE, 2)
    for number, rows in enumerate(nearest):
        plain.add_rows(number, 0, rows, "f32")
    plain.finish()
    assert encode(nearest).errors()[2] < 1.3 * plain.errors()[2]
    assert plain.errors()[4] > 0.05


def test_what_is_no_4_bit_float_is_refused_by_row() -> None:
    matrices = [even(np.random.default_rng(i), *shape) for i, shape in enumerate(SHAPES)]
    for wrong in (0.3, 5.0, 7.0, 6.5, 2.0**-140):
        bad = [m.copy() for m in matrices]
        bad[1][37, 40] = wrong
        with pytest.raises(ValueError, match="up: row 37 holds weights that are no 4-bit floats"):
            encode(bad)
    bad[1][37, 40] = np.nan
    with pytest.raises(ValueError, match="row 37 holds a non-finite weight"):
        encode(bad)
    for segments in (3, 4):
        with pytest.raises(ValueError, match="4-bit floats have 1 or 2 segments"):
            encode(matrices, segments)
    with pytest.raises(ValueError, match="codes: expected linear or fp4, got 'fp8'"):
        ExpertEncoder(0, 0, 32, 32, 2, codes="fp8")


@pytest.mark.parametrize("tier", [2, 4])
@pytest.mark.parametrize("tokens", [1, 2, 13])
def test_every_instruction_set_computes_them(tokens: int, tier: int) -> None:
    """Activations of one sign at their largest too: sums of 16 bits must not overflow."""
    pool = [encode([even(np.random.default_rng([n, i]), *s) for i, s in enumerate(SHAPES)]) for n in range(EXPERTS - 1)]
    pool.append(encode([np.full(shape, 6.0, np.float32) for shape in SHAPES]))
    segments = [[encoder.segment(i) for i in range(2)] for encoder in pool]
    case = kernel_cases.make_case(tokens, HIDDEN, [tokens, tier], experts=EXPERTS, top_k=TOP_K)
    case.x[0] = 1.0
    table = np.zeros((EXPERTS, 4), np.uint64)
    for n, record in enumerate(segments):
        table[n, :2] = [part.ctypes.data for part in record]
    weights = [reference.decode_expert(record, HIDDEN, INTERMEDIATE, tier, codes="fp4") for record in segments]
    y = np.stack([reference.expert_forward(case.x, w, experts=ExpertSpec(INTERMEDIATE)) for w in weights])
    wanted = (case.weights[:, :, None] * y[case.chosen, np.arange(tokens)[:, None]]).sum(1)
    results = []
    for isa in available_isas():
        kernels = ExpertKernels(HIDDEN, INTERMEDIATE, TOP_K, tokens, isa=isa, codes="fp4")
        out = np.full_like(case.x, np.nan)
        kernels.forward(case.x, tier, table, case.starts, case.pairs, case.weights, out)
        assert np.abs(out - wanted).max() <= reference.KERNEL_BOUND * np.abs(wanted).max()
        results.append(out)
    assert all(np.array_equal(out, results[0]) for out in results)
    with pytest.raises(ValueError, match="records of 4-bit floats have tiers 2, 4 and 16, got 8"):
        kernels.forward(case.x, 8, np.full((EXPERTS, 4), table[0, 0]), case.starts, case.pairs, case.weights, out)
