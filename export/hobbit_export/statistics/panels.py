"""Rows of a record as the encoder has written them so far: what the two-bit tier is made of (docs/format.md, 1.2)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_runtime.base.arrays import F64, U8
from edge_runtime.bundle.record import GROUP, PANEL, RECORD_HEADER_BYTES, ROW_BYTES, RecordLayout

_TABLES = 8 * PANEL
"""Offset of the tables in a panel's metadata, behind row scales and row minima."""
_FLOAT_STEPS = 15
"""Of 4-bit floats: a group's power of two counts next to the row's largest if it is not this many below."""
_FLOAT_OFFSET = 48.0


class CoarseRows(NamedTuple):
    """R rows of K inputs in G groups. A weight is unit / 8 * scale * (table[cell] - offset) - minimum * low.

    Attributes:
        cells: uint8 [R, K].
        tables: float64 [R, 4].
        scales: float64 [R, G], whole numbers.
        lows: float64 [R, G], whole numbers.
        unit: float64 [R].
        minimum: float64 [R].
        offset: see above.
    """

    cells: U8
    tables: F64
    scales: F64
    lows: F64
    unit: F64
    minimum: F64
    offset: float


class Panels:
    """Where the rows of a matrix lie in the base segment of a record.

    Args:
        layout: of the record.
        matrix: 0 gate, 1 up, 2 down.
        fp4: codes stand for 4-bit floats.
    """

    def __init__(self, layout: RecordLayout, matrix: int, *, fp4: bool = False) -> None:
        wide = 2 if layout.gated else 1
        above = wide * layout.intermediate // PANEL if matrix == 2 else 0
        first = 0 if matrix == 2 or not layout.gated else matrix
        self._stride = 1 if matrix == 2 else wide
        self.cols = layout.intermediate if matrix == 2 else layout.hidden
        self._fp4 = fp4
        self._meta_bytes, self._plane_bytes = PANEL * ROW_BYTES + self.cols, PANEL * self.cols // 4
        up_meta, up_plane = PANEL * ROW_BYTES + layout.hidden, PANEL * layout.hidden // 4
        self._meta = RECORD_HEADER_BYTES + above * up_meta + first * self._meta_bytes
        self._plane = layout.plane0_offset + above * up_plane + first * self._plane_bytes

    def read(self, base: U8, start: int, stop: int) -> CoarseRows:
        """Return rows `start` to `stop`, both multiples of 16."""
        count, groups = (stop - start) // PANEL, self.cols // GROUP
        meta = self._panels(base, self._meta, self._meta_bytes, start, count)
        plane = self._panels(base, self._plane, self._plane_bytes, start, count)
        steps = np.ascontiguousarray(meta[:, : 8 * PANEL]).view("<f4").reshape(count, 2, PANEL).astype(np.float64)
        tables = meta[:, _TABLES : PANEL * ROW_BYTES].reshape(-1, 4).astype(np.float64)
        pairs = meta[:, PANEL * ROW_BYTES :].reshape(count, groups, 2, PANEL)
        scales, lows = (pairs[:, :, i].transpose(0, 2, 1).reshape(-1, groups) for i in range(2))
        cells = _unpacked(plane, groups)
        if self._fp4:
            return _floats(cells, tables, scales)
        unit, minimum = steps[:, 0].ravel(), steps[:, 1].ravel()
        return CoarseRows(cells, tables, scales.astype(np.float64), lows.astype(np.float64), unit, minimum, 0.0)

    def write(self, base: U8, start: int, tables: U8) -> None:
        """Put the tables uint8 [R, 4] of rows from `start` on into a base segment."""
        count = len(tables) // PANEL
        at = self._meta + _TABLES + self._stride * self._meta_bytes * (start // PANEL + np.arange(count))
        base[at[:, None] + np.arange(4 * PANEL)] = tables.reshape(count, -1)

    def _panels(self, base: U8, first: int, size: int, start: int, count: int) -> U8:
        """Copy panels as [panels, bytes]."""
        at = first + self._stride * size * (start // PANEL + np.arange(count))
        panels: U8 = base[at[:, None] + np.arange(size)]
        return panels


def _unpacked(plane: U8, groups: int) -> U8:
    """Two-bit fields [rows, inputs] of panels of plane 0."""
    packed = plane.reshape(-1, groups, 2, PANEL, 4)  # panel, group, v, row, j; input = 32 group + 16 v + 4 field + j
    fields = np.stack([(packed >> (2 * field)) & 3 for field in range(4)])
    return np.ascontiguousarray(fields.transpose(1, 4, 2, 3, 0, 5)).reshape(-1, groups * GROUP)


def _floats(cells: U8, tables: F64, exponents: U8) -> CoarseRows:
    """Records of 4-bit floats: group scales are powers of two, taken next to the row's largest."""
    top = exponents.max(axis=1).astype(np.int64)
    powers = exponents.astype(np.int64) - top[:, None] + _FLOAT_STEPS
    scales = np.where((exponents > 0) & (powers >= 0), np.ldexp(1.0, np.maximum(powers, 0)), 0.0)
    unit = np.ldexp(1.0, top - 127 - _FLOAT_STEPS)
    return CoarseRows(cells, tables, scales, np.zeros_like(scales), unit, np.zeros(len(unit)), _FLOAT_OFFSET)
