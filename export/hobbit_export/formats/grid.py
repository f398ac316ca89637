"""Weights stored row by row: codes of a row one after the other, and a grid of scales over blocks of the matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import BundleError
from hobbit_export.formats.numbers import apply_steps
from hobbit_export.formats.parts import Part, names, total_bytes
from hobbit_export.weights import Weight

_STEP_WEIGHTS = 1 << 17
"""Weights decoded at a time: temporaries of a few bytes each stay below 2 MiB beside the result."""


@dataclass(frozen=True)
class Scales:
    """Scales of blocks of a matrix [N, K], or of several matrices [E, N, K].

    Attributes:
        part: [R, C] or [E, R, C]; R = ceil(N / rows), C = ceil(K / cols), or a single number or one for each matrix.
        rows: height of a block.
        cols: width of a block.
    """

    part: Part
    rows: int
    cols: int

    def read(self, matrix: int, start: int, stop: int) -> F32:
        """Read the scales [stop - start, C] of rows of a matrix."""
        info = self.part.info
        if info.rows * info.cols == 1:
            return np.broadcast_to(self.part.read_scales(0, 1), (stop - start, 1))
        per_matrix = info.shape[-2]
        base, first, last = matrix * per_matrix, start // self.rows, (stop - 1) // self.rows + 1
        if self.rows == 1:
            return self.part.read_scales(base + first, base + last)
        found = self.part.read_scales(base + first, base + last)
        return found[np.arange(start, stop) // self.rows - first]


@dataclass(frozen=True)
class GridWeight(Weight):
    """A weight [..., N, K] of codes in rows, decoded as value(code) x scale, or (value(code) - zero) x scale.

    Attributes:
        codes: stored with all rows one after the other.
        decode: raw rows [n, stored columns] -> float32 [n, K] or wider, in new memory.
        scales: of the blocks.
        zeros: of the blocks, float32 [n, C] for rows start to stop of a matrix; None: all are 0.
        outer: applies a scale of the whole weight to those of the blocks, as NVFP4 has one; None: there is none.
        turned: adapters know the weight with its last two dimensions exchanged.
    """

    codes: Part
    decode: Callable[[NDArray[Any]], F32]
    scales: Scales
    zeros: Callable[[int, int, int], F32] | None = None
    outer: Callable[[F32], F32] | None = None
    turned: bool = False

    @staticmethod
    def of(
        name: str, shape: tuple[int, ...], kind: str, codes: Part, decode: Callable[[NDArray[Any]], F32],
        scales: Scales, *others: Part | None, **options: Any,
    ) -> GridWeight:  # fmt: skip
        """Return a weight of a shape made of these parts; `options` are those of the class."""
        return GridWeight(
            name, codes.info.file, "F32", shape, names(codes, scales.part, *others),
            total_bytes(codes, scales.part, *others), 4 * shape[-1], kind, codes, decode, scales, **options,
        )  # fmt: skip

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read and decode rows."""
        if self.turned:
            raise BundleError(f"{self.file.name}: tensor {self.name!r}: {self.format} is read by rows of outputs only.")
        out, height = np.empty((stop - start, self.cols), np.float32), self.shape[-2]
        step, at = max(1, _STEP_WEIGHTS // max(1, self.cols)), start
        while at < stop:
            matrix, first = divmod(at, height)
            until = min(stop, at + step, (matrix + 1) * height)
            self._decode(out[at - start : until - start], at, matrix, slice(first, first + until - at))
            at = until
        return out

    def _decode(self, out: F32, at: int, matrix: int, rows: slice) -> None:
        raw = self.codes.rows(at, at + len(out))
        out[...] = self.decode(raw)[:, : self.cols]
        scales, width = self.scales.read(matrix, rows.start, rows.stop), self.scales.cols
        if self.outer is not None:
            scales = self.outer(scales)
        zeros = None if self.zeros is None else self.zeros(matrix, rows.start, rows.stop)
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # weights that are not finite are refused where they are used
            apply_steps(out, scales, zeros, width)

    def transposed(self) -> Weight:
        """Return the weight with its last two dimensions exchanged; only one of the two can be read."""
        *outer, n, k = self.shape
        return GridWeight(**{**vars(self), "shape": (*outer, k, n), "turned": not self.turned})
