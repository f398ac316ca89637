"""Two-bit tables for what an expert's matrices get: least squares of outputs instead of weights.

A row of the two-bit tier has four numbers of its own. The encoder makes them the means of the weights they stand for.
Here they are those with which the row's output on sampled inputs comes closest to that of the source's weights. Nothing
else of a record changes, so that deeper tiers stay as they are.

Every product is one of whole numbers below 2^53, so that sums are exact and no byte depends on the processor.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_runtime.base.arrays import F32, F64, I64, U8
from edge_runtime.bundle.record import GROUP
from hobbit_export.statistics.panels import CoarseRows

DAMPING = 0.1
"""Weight of the error of weights next to that of outputs, in units of the mean square input."""
INPUT_BITS, _WEIGHT_BITS, _SUM_BITS = 19, 18, 20
_ERROR_STEPS = 16.0
_LARGEST = 127.0


class Inputs(NamedTuple):
    """N inputs of a matrix as whole numbers.

    Attributes:
        whole: float64 [N, K], whole numbers of at most `INPUT_BITS` bits.
        unit: what they are multiples of.
        grouped: float64 [G, N], their sums over each group.
        mean_square: of all N, for one input number: sum of squares by K.
    """

    whole: F64
    unit: float
    grouped: F64
    mean_square: float

    @staticmethod
    def of(values: F64) -> Inputs:
        """Round to whole numbers, relative to the largest."""
        top = float(np.abs(values).max(initial=0.0))
        exponent = int(np.frexp(top)[1]) - INPUT_BITS
        whole = np.rint(np.ldexp(values, -exponent))
        grouped = whole.reshape(len(whole), -1, GROUP).sum(axis=-1).T
        mean_square = float((whole.astype(np.int64) ** 2).sum()) / whole.shape[1]
        return Inputs(whole, float(np.ldexp(1.0, exponent)), grouped, mean_square)


class Fitted(NamedTuple):
    """What became of R rows.

    Attributes:
        tables: uint8 [R, 4].
        outputs: float64 [N, R], of the source's weights.
        coarse: float64 [N, R], of the two-bit tier.
        residual: sum of squares of what the two-bit tier changes of the weights.
    """

    tables: U8
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
    sums, squares = _cells(rows, coarse_inputs)
    eighth = rows.unit / 8
    below = (rows.lows @ coarse_inputs.grouped) * (rows.minimum * coarse_inputs.unit)[:, None]
    outputs = _outputs(weights, inputs)
    step = eighth * coarse_inputs.unit
    live = step > 0
    present = rows.tables - rows.offset
    wanted = (outputs + below) / np.where(live, step, 1.0)[:, None] - _combined(present, sums)
    # what an error of a cell's weights costs: present tables are the best for those
    change = _least_squares(sums, wanted, squares * (DAMPING * coarse_inputs.mean_square))
    tables = np.clip(np.rint(rows.tables + np.where(live[:, None], change, 0.0)), 0.0, _LARGEST)
    coarse = step[:, None] * _combined(tables - rows.offset, sums) - below
    return Fitted(tables.astype(np.uint8), outputs.T, coarse.T, _residual(rows, weights, tables))


def _cells(rows: CoarseRows, inputs: Inputs) -> tuple[F64, F64]:
    """Of the scales of each cell's weights: products with the inputs [R, 4, N], and sums of squares [R, 4].

    Sums are exact, so the last cell's are what the other three leave of the row's.
    """
    scales = np.repeat(rows.scales, GROUP, axis=1)
    sums = np.empty((len(scales), 4, len(inputs.whole)))
    squares = np.empty((len(scales), 4))
    for cell in range(3):
        own = scales * (rows.cells == cell)
        sums[:, cell] = own @ inputs.whole.T
        squares[:, cell] = np.einsum("rk,rk->r", own, own)
    sums[:, 3] = rows.scales @ inputs.grouped - sums[:, :3].sum(axis=1)
    squares[:, 3] = GROUP * np.einsum("rg,rg->r", rows.scales, rows.scales) - squares[:, :3].sum(axis=1)
    return sums, squares


def _combined(tables: F64, sums: F64) -> F64:
    """Sum over the four cells, [R, N]."""
    total: F64 = tables[:, :1] * sums[:, 0]
    for cell in range(1, 4):
        total = total + tables[:, cell, None] * sums[:, cell]
    return total


def _outputs(weights: F32, inputs: Inputs) -> F64:
    """Outputs [R, N] of the source's rows, whose weights are whole numbers next to the row's largest."""
    exponents = np.frexp(np.abs(weights).max(axis=1).astype(np.float64))[1] - _WEIGHT_BITS
    whole = np.rint(weights.astype(np.float64) * np.ldexp(1.0, -exponents)[:, None])
    return np.asarray(np.ldexp(whole @ inputs.whole.T, exponents[:, None]) * inputs.unit)


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


def _rounded(values: F64) -> tuple[F64, I64]:
    """Whole numbers of `_SUM_BITS` bits a row, and the power of two they are larger by."""
    power = _SUM_BITS - np.frexp(np.abs(values).max(axis=1))[1].astype(np.int64)
    return np.rint(values * np.ldexp(1.0, power)[:, None]), power


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


def _residual(rows: CoarseRows, weights: F32, tables: F64) -> float:
    """Squared weight error, counted in sixteenths of a row's smallest step."""
    live = (rows.unit > 0)[:, None]
    step = np.where(live, rows.unit[:, None], 1.0) / (8 * _ERROR_STEPS)
    above = weights + np.repeat(rows.lows * rows.minimum[:, None], GROUP, axis=1)
    steps = (tables - rows.offset) * (live * _ERROR_STEPS)
    away = steps.ravel()[rows.cells + 4 * np.arange(len(steps))[:, None]]
    away *= np.repeat(rows.scales, GROUP, axis=1)
    away -= np.rint(above / step)
    return float((np.einsum("rk,rk->r", away, away) * (step * step)[:, 0]).sum())
