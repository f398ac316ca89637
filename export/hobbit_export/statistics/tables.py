"""Two-bit tables for what an expert's matrices get: least squares of outputs instead of weights.

A row of the two-bit tier has four numbers of its own. The encoder makes them the means of the weights they stand for.
Here they are those with which the row's output on sampled inputs comes closest to that of the source's weights. Nothing
else of a record changes, so that deeper tiers stay as they are.

Every product is one of whole numbers below 2^53, so that sums are exact and no byte depends on the processor.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle.record import GROUP
from hobbit_export.statistics.panels import CoarseRows

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
DAMPING = 0.1
"""Weight of the error of weights next to that of outputs, in units of the mean square input."""
INPUT_BITS, _WEIGHT_BITS, _SUM_BITS = 19, 18, 20
_ERROR_STEPS = 16.0
_LARGEST = 127.0


class Inputs(NamedTuple):
    """N inputs of a matrix as whole numbers of at most `INPUT_BITS` bits, float64 [N, K], times `unit`."""

    whole: F64
    unit: float

    @staticmethod
    def of(values: F64) -> Inputs:
        """Round to whole numbers, relative to the largest."""
        top = float(np.abs(values).max(initial=0.0))
        exponent = int(np.frexp(top)[1]) - INPUT_BITS
        return Inputs(np.rint(np.ldexp(values, -exponent)), float(np.ldexp(1.0, exponent)))


class Fitted(NamedTuple):
    """What became of R rows.

    Attributes:
        tables: uint8 [R, 4].
        outputs: float64 [N, R], of the source's weights.
        coarse: float64 [N, R], of the two-bit tier.
        residual: sum of squares of what the two-bit tier changes of the weights.
    """

    tables: NDArray[np.uint8]
    outputs: F64
    coarse: F64
    residual: float


def fit(rows: CoarseRows, weights: F32, inputs: Inputs, coarse_inputs: Inputs) -> Fitted:
    """Fit the tables of some rows.

    Args:
        rows: as the encoder wrote them.
        weights: of the source, float32 [R, K].
        inputs: of the source's matrix.
        coarse_inputs: of the two-bit tier's matrix, where its inputs are not the same.
    """
    scales = np.repeat(rows.scales, GROUP, axis=1)
    sums = np.stack([np.where(rows.cells == cell, scales, 0.0) @ coarse_inputs.whole.T for cell in range(4)], axis=1)
    eighth = rows.unit / 8
    lows = rows.lows @ coarse_inputs.whole.reshape(-1, rows.lows.shape[1], GROUP).sum(axis=-1).T
    below = lows * (rows.minimum * coarse_inputs.unit)[:, None]
    outputs = _outputs(weights, inputs)
    step = eighth * coarse_inputs.unit
    live = step > 0
    present = rows.tables - rows.offset
    wanted = (outputs + below) / np.where(live, step, 1.0)[:, None] - _combined(present, sums)
    change = _least_squares(sums, wanted, _ridge(rows, scales, coarse_inputs))
    tables = np.clip(np.rint(rows.tables + np.where(live[:, None], change, 0.0)), 0.0, _LARGEST)
    coarse = step[:, None] * _combined(tables - rows.offset, sums) - below
    return Fitted(tables.astype(np.uint8), outputs.T, coarse.T, _residual(rows, scales, weights, tables))


def _combined(tables: F64, sums: F64) -> F64:
    """Sum over the four cells, [R, N]."""
    total: F64 = tables[:, :1] * sums[:, 0]
    for cell in range(1, 4):
        total = total + tables[:, cell, None] * sums[:, cell]
    return total


def _outputs(weights: F32, inputs: Inputs) -> F64:
    """Outputs [R, N] of the source's rows, whose weights are whole numbers next to the row's largest."""
    exponents = np.frexp(np.abs(weights).max(axis=1).astype(np.float64))[1] - _WEIGHT_BITS
    whole = np.rint(np.ldexp(weights.astype(np.float64), -exponents[:, None]))
    return np.asarray(np.ldexp(whole @ inputs.whole.T, exponents[:, None]) * inputs.unit)


def _ridge(rows: CoarseRows, scales: F64, inputs: Inputs) -> F64:
    """What an error of the weights of each cell costs, [R, 4]: present tables are the best for those."""
    mean = float((inputs.whole.astype(np.int64) ** 2).sum()) / inputs.whole.shape[1]
    squares = scales * scales
    totals = np.stack([np.where(rows.cells == cell, squares, 0.0).sum(axis=1) for cell in range(4)], axis=1)
    return np.asarray(totals * (DAMPING * mean))


def _least_squares(sums: F64, wanted: F64, ridge: F64) -> F64:
    """Changes [R, 4] of the tables that bring sums [R, 4, N] closest to what is wanted, [R, N]."""
    whole, power = _rounded(sums.reshape(len(sums), -1))
    cells, (target, target_power) = whole.reshape(sums.shape), _rounded(wanted)
    a = np.einsum("rin,rjn->rij", cells, cells)
    b = np.ldexp(np.einsum("rin,rn->ri", cells, target), (power - target_power)[:, None])
    diagonal = np.ldexp(ridge, 2 * power[:, None])
    for cell in range(4):
        a[:, cell, cell] += diagonal[:, cell] + (diagonal[:, cell] == 0)  # an empty cell stays as it is
    return _solve(a, b)


def _rounded(values: F64) -> tuple[F64, NDArray[np.int64]]:
    """Whole numbers of `_SUM_BITS` bits a row, and the power of two they are larger by."""
    power = _SUM_BITS - np.frexp(np.abs(values).max(axis=1))[1].astype(np.int64)
    return np.rint(np.ldexp(values, power[:, None])), power


def _solve(a: F64, b: F64) -> F64:
    """Solve positive definite systems [R, 4, 4] by Cholesky, step by step: the same bits everywhere."""
    size = a.shape[1]
    low = np.zeros_like(a)
    for j in range(size):
        for i in range(j, size):
            rest = a[:, i, j].copy()
            for k in range(j):
                rest -= low[:, i, k] * low[:, j, k]
            low[:, i, j] = np.sqrt(np.maximum(rest, 1e-12 * a[:, i, i])) if i == j else rest / low[:, j, j]
    x: F64 = b.copy()
    for i in range(size):
        for k in range(i):
            x[:, i] -= low[:, i, k] * x[:, k]
        x[:, i] /= low[:, i, i]
    for i in reversed(range(size)):
        for k in range(i + 1, size):
            x[:, i] -= low[:, k, i] * x[:, k]
        x[:, i] /= low[:, i, i]
    return x


def _residual(rows: CoarseRows, scales: F64, weights: F32, tables: F64) -> float:
    """Squared weight error, counted in sixteenths of a row's smallest step."""
    step = np.where(rows.unit > 0, rows.unit, 1.0)[:, None] / (8 * _ERROR_STEPS)
    above = weights.astype(np.float64) + np.repeat(rows.lows, GROUP, axis=1) * rows.minimum[:, None]
    coarse = np.take_along_axis(tables - rows.offset, rows.cells.astype(np.intp), axis=1) * scales * _ERROR_STEPS
    away = np.rint(above / step) - np.where(rows.unit[:, None] > 0, coarse, 0.0)
    return float(((away * away).sum(axis=1) * (step * step)[:, 0]).sum())
