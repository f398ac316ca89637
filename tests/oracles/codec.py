"""Independent group quantisers: what each tier could reach if it were chosen alone.

Nothing here knows the record layout or shares code with the encoder. The searches try a grid of
starting ranges, refine every start by alternating codes and least squares, and keep the best.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_runtime.base.arrays import F64

ErrorOf = Callable[[F64], float]
GROUP = 32


def relative_error(weights: F64, decoded: F64) -> float:
    return float(np.sqrt(((weights - decoded) ** 2).sum() / (weights**2).sum()))


def _codes(groups: F64, scale: F64, minimum: F64, top: int) -> F64:
    safe = np.where(scale > 0, scale, 1.0)
    return np.clip(np.rint((groups - minimum) / safe), 0, top)


def _least_squares(groups: F64, codes: F64, scale: F64, minimum: F64) -> tuple[F64, F64]:
    n = groups.shape[-1]
    sq, sqq = codes.sum(-1, keepdims=True), (codes**2).sum(-1, keepdims=True)
    sw, swq = groups.sum(-1, keepdims=True), (groups * codes).sum(-1, keepdims=True)
    det = n * sqq - sq**2
    fitted = det > 0
    a = np.where(fitted, (n * swq - sq * sw) / np.where(fitted, det, 1), scale)
    b = np.where(fitted, (sw - a * sq) / n, minimum)
    through_zero = np.where(sqq > 0, swq / np.where(sqq > 0, sqq, 1), scale)
    return np.where(b > 0, through_zero, a), np.minimum(b, 0)


def best_affine(weights: F64, bits: int, steps: int, refits: int, widest: float) -> tuple[F64, F64]:
    """Return float scale and minimum (minimum <= 0) per group of 32, shape [rows, groups, 1]."""
    groups = weights.reshape(weights.shape[0], -1, GROUP)
    top = 2**bits - 1
    low, high = np.minimum(groups.min(-1, keepdims=True), 0), groups.max(-1, keepdims=True)
    span = np.maximum(high - low, 0)
    best_a, best_b = span / top, low
    best = np.full_like(low, np.inf)
    for cut_low in np.linspace(0, widest, steps):
        for cut_high in np.linspace(0, widest, steps):
            a, b = span * (1 - cut_low - cut_high) / top, np.minimum(low + span * cut_low, 0)
            for _ in range(refits):
                a, b = _least_squares(groups, _codes(groups, a, b, top), a, b)
            error = ((groups - a * _codes(groups, a, b, top) - b) ** 2).sum(-1, keepdims=True)
            better = error < best
            best, best_a, best_b = (
                np.where(better, error, best),
                np.where(better, a, best_a),
                np.where(better, b, best_b),
            )
    return best_a, best_b


def four_bit_error(weights: F64) -> float:
    """Relative error of 4-bit codes under float scales and minima."""
    a, b = best_affine(weights, bits=4, steps=9, refits=4, widest=0.24)
    groups = weights.reshape(weights.shape[0], -1, GROUP)
    return relative_error(weights, (a * _codes(groups, a, b, 15) + b).reshape(weights.shape))


def two_bit_error(weights: F64) -> float:
    """Relative error of 2-bit codes under 8-bit scales and minima beneath one float each per row."""
    return _stored_two_bit_error(weights, *best_affine(weights, bits=2, steps=7, refits=4, widest=0.36))


def fitted_two_bit_error(weights: F64) -> float:
    """The same with a least-squares fit to each group's full range instead of a search over ranges: the usual codec."""
    return _stored_two_bit_error(weights, *best_affine(weights, bits=2, steps=1, refits=4, widest=0.0))


def _stored_two_bit_error(weights: F64, a: F64, b: F64) -> float:
    groups = weights.reshape(weights.shape[0], -1, GROUP)
    row_a = np.maximum(a.max(1, keepdims=True) / 255, 1e-30)
    row_b = np.maximum((-b).max(1, keepdims=True) / 255, 1e-30)
    best, kept = np.full_like(a, np.inf), np.zeros_like(groups)
    for da in (-1, 0, 1):
        for db in (-1, 0, 1):
            qa = np.clip(np.rint(a / row_a) + da, 0, 255) * row_a
            qb = -np.clip(np.rint(-b / row_b) + db, 0, 255) * row_b
            decoded = qa * _codes(groups, qa, qb, 3) + qb
            error = ((groups - decoded) ** 2).sum(-1, keepdims=True)
            kept, best = np.where(error < best, decoded, kept), np.minimum(error, best)
    return relative_error(weights, kept.reshape(weights.shape))
