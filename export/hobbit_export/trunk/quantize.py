"""Symmetric blockwise quantisation of dense weights, in the byte layout of ONNX Runtime's MatMulNBits. Pure numpy.

A row of K inputs is cut into blocks; a block has one float32 scale and codes around an implicit zero point of
2^(bits-1): weight = (code - zero) * scale. The int4 scale carries a sign, so that the largest weight of the block can
use the code range's longer, negative side.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from edge_runtime.base.arrays import F32, U8

Bits = Literal[4, 8]

BLOCK_SIZE = 128
# int4: shrink factors of the range tried for the lowest squared error, each refined by least squares; 8/7 keeps
# weights that already lie on a grid of -7..7
_SHRINK = (8 / 7, 1.0, 0.94, 0.88, 0.82, 0.76)


class Quantized(NamedTuple):
    """Rows of a quantised matrix.

    Attributes:
        codes: uint8 [rows, blocks, block_size * bits / 8]; int4 has the even element in the low nibble.
        scales: float32 [rows, blocks].
    """

    codes: U8
    scales: F32


def block_size_for(inputs: int) -> int:
    """Return the block size of a matrix with `inputs` columns.

    The largest of 128, 64, 32 and 16 that divides it; 16, with a zero-padded last block, where none does.
    """
    return next((size for size in (BLOCK_SIZE, 64, 32) if inputs % size == 0), 16)


def quantize_rows(weight: F32, bits: Bits, block_size: int) -> Quantized:
    """Quantise float32 [rows, K]. The caller picks few enough rows: temporaries take about 6 times the input."""
    rows, inputs = weight.shape
    blocks = -(-inputs // block_size)
    padded = np.zeros((rows, blocks * block_size), np.float32)
    padded[:, :inputs] = weight
    w = padded.reshape(rows, blocks, block_size)
    signed, scales = _int8(w) if bits == 8 else _int4(w)
    return Quantized(packed4(signed) if bits == 4 else (signed + np.float32(128)).astype(np.uint8), scales)


def packed4(signed: F32) -> U8:
    """Pack int4 codes -8..7 of [rows, blocks, block_size] as they are stored."""
    codes = (signed + np.float32(8)).astype(np.uint8)
    packed: U8 = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return packed


def dequantize_rows(q: Quantized, bits: Bits, inputs: int) -> F32:
    """Return the float32 [rows, inputs] weights of quantised rows."""
    codes = q.codes
    if bits == 4:
        codes = np.stack((codes & 15, codes >> 4), axis=-1).reshape(*codes.shape[:-1], -1)
    values = (codes.astype(np.float32) - np.float32(1 << (bits - 1))) * q.scales[..., None]
    return np.ascontiguousarray(values.reshape(len(codes), -1)[:, :inputs])


def _int8(w: F32) -> tuple[F32, F32]:
    """Return codes in -127..127 and scales; at 8 bits a search over ranges gains nothing measurable."""
    scales = (np.abs(w).max(-1) / np.float32(127)).astype(np.float32)
    return np.clip(np.rint(w * _inverse(scales)[..., None]), -127, 127), scales


def _int4(w: F32) -> tuple[F32, F32]:
    """Return codes in -8..7 and signed scales with the lowest squared error among the candidates."""
    scales = scales4(w)
    return round4(w, scales), scales


def scales4(w: F32, importance: F32 | None = None) -> F32:
    """Return signed scales [rows, blocks] of the lowest squared error among the candidates.

    Args:
        w: float32 [rows, blocks, block_size].
        importance: float32 [block_size], what the squared error of each weight counts; None: all the same.
    """
    extreme = np.take_along_axis(w, np.abs(w).argmax(-1)[..., None], -1)[..., 0]
    best_scale = np.zeros_like(extreme)
    best_gain = np.full_like(extreme, -1.0)
    for shrink in _SHRINK:
        scale = extreme * np.float32(-shrink / 8)
        q = round4(w, scale)
        # least squares for fixed codes: scale = <w,q>/<q,q>, which lowers the squared error by <w,q>^2/<q,q>
        counted = q if importance is None else q * importance
        wq, qq = np.einsum("rbk,rbk->rb", w, counted), np.einsum("rbk,rbk->rb", q, counted)
        gain = wq * wq * _inverse(qq)
        better = gain > best_gain
        best_gain = np.where(better, gain, best_gain)
        best_scale = np.where(better, wq * _inverse(qq), best_scale)
    return best_scale


def round4(w: F32, scale: F32) -> F32:
    """Return the nearest codes -8..7."""
    q = w * _inverse(scale)[..., None]
    np.rint(q, out=q)
    return np.clip(q, -8, 7, out=q)


def _inverse(x: F32) -> F32:
    """Return 1/x, and 0 where x is too small to invert."""
    tiny = np.abs(x) < np.float32(1e-35)
    inverse: F32 = np.where(tiny, np.float32(0), np.float32(1) / np.where(tiny, np.float32(1), x))
    return inverse
