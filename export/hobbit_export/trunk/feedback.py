"""Int4 codes with error feedback: what rounding one weight does to a row's output, the weights behind it make up for.

The order and the update are those of GPTQ (Frantar et al., 2210.17323): inputs from first to last, the error of each
spread over the rest by the inverse of the inputs' second moments. A block's scale is chosen when its turn comes, for
weights as they have become; at the end all scales of a row are fitted to its codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_runtime.base.arrays import F32, F64
from hobbit_export.statistics.moments import segments_of
from hobbit_export.trunk.quantize import Quantized, packed4, round4, scales4

_DAMPING = 0.05
"""Added to the moments' diagonal, in units of its mean: a text says little about seldom directions."""


class Feedback:
    """What quantising rows of one matrix needs of its inputs' moments.

    Args:
        moments: float32 [S, S] of each segment of its K inputs.
        inputs: K.
    """

    def __init__(self, moments: Sequence[F32], inputs: int) -> None:
        self._segments = segments_of(inputs)
        self._moments = [_damped(square) for square in moments]
        self._spread = [np.linalg.cholesky(np.linalg.inv(square)).T for square in self._moments]

    def quantize(self, weight: F32, block_size: int) -> Quantized:
        """Quantise float32 [rows, K] to int4; the last block is filled up with zeros."""
        rows, inputs = weight.shape
        blocks = -(-inputs // block_size)
        codes, scales = np.zeros((rows, blocks * block_size), np.float32), np.zeros((rows, blocks), np.float32)
        for part, moments, spread in zip(self._segments, self._moments, self._spread, strict=True):
            at = slice(part.start // block_size, -(-part.stop // block_size))
            found, first = _fed_back(weight[:, part].astype(np.float64), moments, spread, block_size)
            codes[:, part] = found
            scales[:, at] = _fitted_scales(weight[:, part], found, first, moments, block_size)
        return Quantized(packed4(codes.reshape(rows, blocks, block_size)), scales)


def _damped(square: F32) -> F64:
    """Moments with a positive diagonal; of inputs that were always zero, the identity."""
    moments = square.astype(np.float64)
    mean = float(np.mean(np.diag(moments)))
    moments[np.diag_indices(len(moments))] += _DAMPING * mean if mean > 0 else 1.0
    return moments


def _fed_back(weight: F64, moments: F64, spread: F64, block_size: int) -> tuple[F32, F64]:
    """Return codes float32 [rows, K] and scales [rows, blocks] of a segment of K inputs."""
    left = np.ascontiguousarray(weight.T)
    inputs, rows = left.shape
    importance = np.diag(moments) / np.mean(np.diag(moments))
    codes, scales = np.empty((inputs, rows), np.float32), []
    for start in range(0, inputs, block_size):
        stop = min(start + block_size, inputs)
        block, errors = left[start:stop], np.empty((stop - start, rows))
        scale = scales4(block.T.astype(np.float32)[:, None], importance[start:stop].astype(np.float32))[:, 0]
        for i, column in enumerate(range(start, stop)):
            codes[column] = round4(block[i].astype(np.float32)[:, None], scale)[:, 0]
            errors[i] = (block[i] - codes[column].astype(np.float64) * scale) / spread[column, column]
            block[i + 1 :] -= spread[column, column + 1 : stop, None] * errors[i]
        left[stop:] -= spread[start:stop, stop:].T @ errors
        scales.append(scale.astype(np.float64))
    return codes.T, np.stack(scales, axis=1)


def _fitted_scales(weight: F32, codes: F32, scales: F64, moments: F64, block_size: int) -> F64:
    """Scales [rows, blocks] with which the codes come closest to the weights' output, by least squares."""
    wanted = weight.astype(np.float64) @ moments
    starts = range(0, weight.shape[1], block_size)
    number = len(starts)
    products, targets = np.empty((len(weight), number, number)), np.empty((len(weight), number))
    for i, start in enumerate(starts):
        part = slice(start, start + block_size)
        own = codes[:, part].astype(np.float64)
        targets[:, i] = np.einsum("rk,rk->r", own, wanted[:, part])
        seen = own @ moments[part]
        for j, other in enumerate(starts):
            where = slice(other, other + block_size)
            products[:, i, j] = np.einsum("rk,rk->r", seen[:, where], codes[:, where].astype(np.float64))
    dead = np.einsum("rii->ri", products) <= 0
    products[:, np.arange(number), np.arange(number)] += np.where(
        dead, 1.0, 1e-9 * np.abs(products).max(axis=(1, 2))[:, None]
    )
    found = np.linalg.solve(products, targets[..., None])[..., 0]
    return np.where(dead | ~np.isfinite(found), scales, found)
