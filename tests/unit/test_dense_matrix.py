"""Dense products against numpy: every precision and instruction set, ragged sizes, rows alone and together."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.backends.cpu.kernels import DenseMatrix, available_isas
from edge_runtime.base.arrays import F32
from hobbit_export.trunk.quantize import dequantize_rows, quantize_rows

ISAS = available_isas()
SIZES = [(16, 16, 16), (33, 48, 16), (70, 96, 32), (1, 192, 64), (50, 384, 128), (17, 300, 16)]
"""Outputs, inputs, and inputs under one scale."""


def packed(w: F32, bits: int, block: int, isa: str) -> tuple[DenseMatrix, F32]:
    """Return a matrix, put together from pieces, and the weights it stands for."""
    outputs, inputs = w.shape
    matrix = DenseMatrix(outputs, inputs, bits, block, isa=isa)
    if bits == 32:
        columns = np.ascontiguousarray(w.T)
        for first in range(0, inputs, 7):
            matrix.put_floats(first, columns[first : first + 7])
        return matrix, w
    q = quantize_rows(w, bits, block)  # type: ignore[arg-type]
    for first in range(0, outputs, 5):
        matrix.put_codes(first, q.codes[first : first + 5], q.scales[first : first + 5])
    return matrix, dequantize_rows(q, bits, inputs)  # type: ignore[arg-type]


def rounded(x: F32, block: int) -> F32:
    """Activations as int8 with one scale a block."""
    padded = np.zeros((len(x), -(-x.shape[1] // block) * block), np.float32)
    padded[:, : x.shape[1]] = x
    blocks = padded.reshape(len(x), -1, block)
    peak = np.abs(blocks).max(-1, keepdims=True)
    inverse = np.divide(np.float32(127), peak, out=np.zeros_like(peak), where=peak > 1e-30)
    return (np.rint(blocks * inverse) * (peak / np.float32(127))).reshape(len(x), -1)[:, : x.shape[1]]


def product(matrix: DenseMatrix, x: F32, outputs: int) -> F32:
    out = np.full((len(x), outputs), np.nan, np.float32)
    matrix.apply(x, out)
    return out


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("bits", [32, 8, 4])
def test_products_equal_numpy_and_are_the_same_everywhere(bits: int, size: tuple[int, int, int]) -> None:
    outputs, inputs, block = size
    rng = np.random.default_rng(bits + outputs)
    w = rng.standard_normal((outputs, inputs), dtype=np.float32)
    x = rng.standard_normal((21, inputs), dtype=np.float32) * np.float32(3)
    x[3, : inputs // 2] = 0
    found = []
    for isa in ISAS:
        matrix, weights = packed(w, bits, block, isa)
        found.append(product(matrix, x, outputs))
        seen = x if bits == 32 else rounded(x, block)
        expected = seen.astype(np.float64) @ weights.T.astype(np.float64)
        np.testing.assert_allclose(found[-1], expected, rtol=0, atol=2e-5 * np.abs(expected).max())
        for count in (1, 2, 3, 5, 8, 13):  # alone and in blocks of every size
            np.testing.assert_array_equal(product(matrix, x[:count].copy(), outputs), found[-1][:count])
        np.testing.assert_array_equal(product(matrix, x[20:].copy(), outputs), found[-1][20:])
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize("isa", ISAS)
def test_extreme_codes_do_not_saturate(isa: str) -> None:
    """Every code at its end, activations at theirs: sums of 16 bits would overflow."""
    x = np.full((3, 256), 127, np.float32) * np.float32([[1], [-1], [1]])
    x[2, ::2] = -127
    for code in (0, 1, 128, 255):
        matrix = DenseMatrix(16, 256, 8, 128, isa=isa)
        matrix.put_codes(0, np.full((16, 2, 128), code, np.uint8), np.ones((16, 2), np.float32))
        np.testing.assert_array_equal(product(matrix, x, 16)[:, 0], x.sum(1) * np.float32(code - 128))
    for code in (0x00, 0xFF):
        matrix = DenseMatrix(16, 256, 4, 128, isa=isa)
        matrix.put_codes(0, np.full((16, 2, 64), code, np.uint8), np.ones((16, 2), np.float32))
        np.testing.assert_array_equal(product(matrix, x, 16)[:, 0], x.sum(1) * np.float32((code & 15) - 8))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("bits", [32, 8, 4])
def test_what_is_not_finite_shows(bits: int, bad: float) -> None:
    matrix, _ = packed(np.ones((20, 64), np.float32), bits, 32, "auto")
    x = np.ones((2, 64), np.float32)
    x[1, 40] = bad
    out = product(matrix, x, 20)
    assert np.isfinite(out[0]).all()
    assert not np.isfinite(out[1]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 16, 32, 0), "sizes must be above 0"),
        ((1 << 30, 1 << 30, 32, 0), "below 2"),
        ((16, 16, 5, 16), "bits must be 32, 8 or 4"),
        ((16, 48, 8, 24), "block must be 16"),
    ],
)
def test_impossible_matrices_are_refused(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenseMatrix(*arguments)


def test_pieces_beyond_the_matrix_are_refused() -> None:
    floats, codes = DenseMatrix(16, 32), DenseMatrix(16, 32, 8, 32)
    with pytest.raises(ValueError, match="beyond"):
        floats.put_floats(30, np.zeros((3, 16), np.float32))
    with pytest.raises(ValueError, match="shape"):
        floats.put_floats(0, np.zeros((3, 15), np.float32))
    with pytest.raises(ValueError, match="beyond"):
        codes.put_codes(15, np.zeros((2, 1, 32), np.uint8), np.zeros((2, 1), np.float32))
    with pytest.raises(ValueError, match="shape"):
        codes.put_codes(0, np.zeros((2, 1, 31), np.uint8), np.zeros((2, 1), np.float32))
    with pytest.raises(ValueError, match="beyond"):
        codes.put_floats(0, np.zeros((1, 16), np.float32))
