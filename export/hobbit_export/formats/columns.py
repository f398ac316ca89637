"""Weights stored with inputs before outputs, as GPTQ and AWQ store them: rows are gathered from columns of words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.arrays import F32, I32, I64
from edge_runtime.base.errors import BundleError
from hobbit_export.checkpoint import to_f32
from hobbit_export.formats.numbers import apply_steps
from hobbit_export.formats.parts import Part, names, total_bytes
from hobbit_export.weights import Weight

_STEP_WEIGHTS = 1 << 17
"""Weights decoded at a time, as in `grid`."""


@dataclass(frozen=True)
class Packing:
    """How a format packs integers of a matrix [N, K] into words.

    Attributes:
        outputs: outputs in a word of qweight; 1: words hold inputs.
        codes: words of some columns -> float32 [n, K].
        zeros: words of columns of qzeros -> float32 [G, n].
        zeros_outputs: outputs in a word of qzeros.
        check_zeros: stored zero points -> those meant, or raises ValueError.
    """

    outputs: int
    codes: Callable[[I32], F32]
    zeros: Callable[[I32], F32]
    zeros_outputs: int
    check_zeros: Callable[[F32], F32] = lambda zeros: zeros


@dataclass(frozen=True)
class ColumnWeight(Weight):
    """A weight [N, K]: scale[g, n] * (code[n, k] - zero[g, n]), g the group of input k.

    Attributes:
        group: inputs of a group.
        order: tensor int32 [K] with the group of each input; None: groups follow each other.
    """

    packing: Packing
    group: int
    words: Part
    scales: Part
    zeros: Part
    order: Part | None

    @staticmethod
    def of(
        module: str, shape: tuple[int, int], kind: str, packing: Packing, group: int,
        parts: tuple[Part, Part, Part, Part | None],
    ) -> ColumnWeight:  # fmt: skip
        """Return the weight of a module made of words, scales, zeros and, where inputs are ordered, their groups."""
        words, scales, _, _ = parts
        n, k = shape
        # codes and their words, and scales and zeros with a copy each, beside the result
        row_bytes = 4 * k + 2 * words.info.num_bytes // n + 24 * scales.info.rows
        return ColumnWeight(
            f"{module}.weight", words.info.file, "F32", shape, names(*parts), total_bytes(*parts), row_bytes, kind,
            packing, group, *parts,
        )  # fmt: skip

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read and decode rows."""
        out, groups = np.empty((stop - start, self.cols), np.float32), self._groups()
        if start == stop:
            return out
        scales, zeros = self._scales(start, stop), self._zeros(start, stop)
        pack = self.packing.outputs
        first = start // pack
        words = self._columns(self.words, first, -(-stop // pack))
        step = max(1, _STEP_WEIGHTS // self.cols // pack) * pack
        for at in range(first * pack, stop, step):
            until = min(at + step, -(-stop // pack) * pack)
            codes = self.packing.codes(words[:, at // pack - first : until // pack - first])
            low, high = max(at, start), min(until, stop)
            rows = slice(low - start, high - start)
            out[rows] = codes[low - at : high - at]
            with np.errstate(over="ignore", invalid="ignore"):  # as in `grid`
                self._scale(out[rows], scales[:, rows].T, zeros[:, rows].T, groups)
        return out

    def _scale(self, out: F32, scales: F32, zeros: F32, groups: I64 | None) -> None:
        if groups is not None:
            out -= zeros[:, groups]
            out *= scales[:, groups]
            return
        apply_steps(out, scales, zeros, self.group)

    def _scales(self, start: int, stop: int) -> F32:
        return self.scales.finite(to_f32(self._columns(self.scales, start, stop)))

    def _zeros(self, start: int, stop: int) -> F32:
        pack = self.packing.zeros_outputs
        first = start // pack
        raw = self.packing.zeros(self._columns(self.zeros, first, -(-stop // pack)))
        try:
            return self.packing.check_zeros(raw[:, start - first * pack : stop - first * pack])
        except ValueError as err:
            raise BundleError(f"{self.zeros.where}: {err}") from err

    def _groups(self) -> I64 | None:
        """Return the group of each input; None where they follow each other."""
        if self.order is None:
            return None
        groups, count = self.order.read().astype(np.int64), self.scales.info.rows
        wrong = np.flatnonzero((groups < 0) | (groups >= count))
        if len(wrong):
            raise BundleError(
                f"{self.order.where}: input {wrong[0]}: expected a group from 0 to {count - 1}, "
                f"got {groups[wrong[0]]}. Download the checkpoint again."
            )
        return None if np.array_equal(groups, np.arange(self.cols) // self.group) else groups

    @staticmethod
    def _columns(part: Part, start: int, stop: int) -> NDArray[Any]:
        return part.checkpoint.raw_block(part.info.name, slice(0, part.info.rows), slice(start, stop))

    def transposed(self) -> Weight:
        """Refuse: no published model has such weights."""
        raise BundleError(
            f"{self.file.name}: tensor {self.parts[0]!r}: {self.format} of a transposed weight is not read."
        )
