"""What the codes of a record stand for, in plain numpy: part of `reference`."""

from __future__ import annotations

import numpy as np

from edge_runtime.base.arrays import F32, I32, U8

GROUP, ROWS = 32, 16


def plane_codes(raw: U8, cols: int) -> I32:
    """Unpack one plane of one panel to two-bit codes [16, cols]."""
    packed = raw.reshape(cols // GROUP, 2, ROWS, 4)  # group, v, row, j
    fields: U8 = np.stack([(packed >> (2 * f)) & 3 for f in range(4)], axis=0)  # f, group, v, row, j
    # input = 32 group + 16 v + 4 f + j
    return np.asarray(fields.transpose(3, 1, 2, 0, 4).reshape(ROWS, cols).astype(np.int32))


_FP4 = np.array([-6, -4, -3, -2, -1.5, -1, -0.5, -0.0, 0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
"""What 4-bit codes stand for in records of 4-bit floats."""


def fp4_weights(tier: int, codes: list[I32], table: U8, powers: U8) -> F32:
    """Weights of such a record: the coarse tier has four floats a row, stored eight times as large and 48 above."""
    scales = np.where(powers > 0, np.ldexp(np.float32(1), powers.astype(np.int32) - 127), np.float32(0))
    if tier == 2:
        floats = (np.take_along_axis(table, codes[0], axis=1).astype(np.float32) - 48) / np.float32(8)
    else:
        floats = _FP4[4 * codes[0] + codes[1]]
    return np.asarray(scales.astype(np.float32) * floats)


def linear_weights(tier: int, codes: list[I32], table: U8, a: F32, b: F32) -> F32:
    """Return the weights of a panel whose codes are steps of `a` from `b` on."""
    if tier == 2:
        return np.asarray(a * np.take_along_axis(table, codes[0], axis=1).astype(np.float32) / np.float32(8) + b)
    q = 4 * codes[0] + codes[1]
    if tier == 4:
        return np.asarray(a * q.astype(np.float32) + b)
    fine = 14 * q + 4 * codes[2] - 6.0 if tier == 6 else 14 * q + 4 * codes[2] + codes[3] - 7.5
    return np.asarray(a / np.float32(14) * fine.astype(np.float32) + b)
