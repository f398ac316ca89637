"""Blockwise quantisation of dense weights."""

from __future__ import annotations

import numpy as np
import pytest

from hobbit_export.trunk.parts import to_bfloat16
from hobbit_export.trunk.quantize import Bits, block_size_for, dequantize_rows, quantize_rows


def _weights(rows: int, inputs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(5, (rows, inputs)).astype(np.float32)


def test_block_sizes() -> None:
    assert [block_size_for(k) for k in (2048, 192, 96, 144, 72, 16)] == [128, 64, 32, 16, 16, 16]


@pytest.mark.parametrize(("bits", "block", "limit"), [(8, 128, 0.011), (8, 16, 0.007), (4, 128, 0.15), (4, 16, 0.10)])
def test_error_is_bounded(bits: Bits, block: int, limit: float) -> None:
    w = _weights(64, 256)
    back = dequantize_rows(quantize_rows(w, bits, block), bits, 256)
    assert np.sqrt(np.mean((w - back) ** 2) / np.mean(w**2)) < limit


@pytest.mark.parametrize("block", [16, 128])
def test_the_search_beats_plain_rounding(block: int) -> None:
    w = _weights(64, 256).reshape(64, -1, block)
    scale = np.abs(w).max(-1, keepdims=True) / 7
    plain = np.clip(np.rint(w / scale), -8, 7) * scale
    best = dequantize_rows(quantize_rows(w.reshape(64, -1), 4, block), 4, 256).reshape(w.shape)
    assert np.sum((w - best) ** 2) < 0.9 * np.sum((w - plain) ** 2)


@pytest.mark.parametrize("bits", [4, 8])
def test_exact_for_values_on_the_grid_and_for_zero(bits: Bits) -> None:
    grid = np.arange(-7, 8, dtype=np.float32)
    w = np.zeros((3, 32), np.float32)
    w[0, :15], w[0, 16:31], w[1, :15], w[1, 16:] = grid, grid * 4, -grid * np.float32(0.5), np.arange(-8, 8)
    back = dequantize_rows(quantize_rows(w, bits, 16), bits, 32)
    np.testing.assert_allclose(back, w, rtol=0, atol=1e-6 if bits == 4 else 0.12)
    assert not back[2].any()


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_do_not_depend_on_how_they_are_cut(bits: Bits) -> None:
    w = _weights(10, 72)
    whole = quantize_rows(w, bits, 16)
    parts = [quantize_rows(w[i : i + 3], bits, 16) for i in range(0, 10, 3)]
    np.testing.assert_array_equal(whole.codes, np.concatenate([p.codes for p in parts]))
    np.testing.assert_array_equal(whole.scales, np.concatenate([p.scales for p in parts]))


def test_bfloat16_rounds_to_nearest_even() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0xBF808001, 0x7F800000], np.uint32)
    expected = [0x3F80, 0x3F82, 0x3F81, 0x3F80, 0xBF81, 0x7F80]
    assert to_bfloat16(bits.view(np.float32)).tolist() == expected
    assert np.isnan((to_bfloat16(np.array([np.nan], np.float32)).astype(np.uint32) << 16).view(np.float32)).all()
