"""Undo what a conversion to GGUF did to a weight, as its rows are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import BundleError
from hobbit_export.checkpoint import to_f32
from hobbit_export.weights import Weight


@dataclass(frozen=True)
class _Changed(Weight):
    """A weight that was changed when it was converted, read with the change undone."""

    stored: Weight

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows as they are stored."""
        return self.stored.read(start, stop)

    def transposed(self) -> Weight:
        """Refuse: no adapter of GGUF asks for it."""
        raise BundleError(f"{self.file.name}: tensor {self.name!r}: cannot be read transposed.")


@dataclass(frozen=True)
class _Heads(_Changed):
    """Rows of heads: row 2j + t of a head in the file is its row t * size / 2 + j."""

    size: int

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read whole heads and put their rows into order."""
        first, last = start // self.size * self.size, -(-stop // self.size) * self.size
        raw = self.stored.read(first, last)
        heads = raw.reshape(-1, self.size // 2, 2, raw.shape[1]).swapaxes(1, 2).reshape(raw.shape)
        return np.ascontiguousarray(heads[start - first : stop - first])


@dataclass(frozen=True)
class _HeadsOfVector(_Changed):
    """The same of a vector with one number a row, such as a bias."""

    size: int

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read the vector and put its numbers into order."""
        raw = self.stored.read(start, stop)
        return np.ascontiguousarray(raw.reshape(-1, self.size // 2, 2).swapaxes(1, 2)).reshape(raw.shape)


def in_halves(weight: Weight, head_dim: int) -> Weight:
    """Return q or k, or a bias of it, with the halves of each head apart.

    llama.cpp turns neighbouring numbers of a head, transformers those half a head apart, so its converter of the llama
    family lets the rows of the two halves alternate.

    Raises:
        BundleError: it has no whole heads.
    """
    rows = weight.shape[0] if weight.shape else 0
    if head_dim < 2 or head_dim % 2 or rows % head_dim:
        raise BundleError(f"{weight.file.name}: tensor {weight.name!r}: expected heads of {head_dim} rows, got {rows}.")
    if len(weight.shape) == 1:
        return _HeadsOfVector(**_fields(weight), stored=weight, size=head_dim)
    return _Heads(**{**_fields(weight), "row_bytes": 3 * weight.row_bytes}, stored=weight, size=head_dim)


def with_shape(weight: Weight, *shape: int) -> Weight:
    """Return a weight whose rows have other outer dimensions; where their product differs, the weight itself."""
    if prod(shape) != prod(weight.shape):
        return weight
    return replace(_Changed(**_fields(weight), stored=weight), shape=shape)


@dataclass(frozen=True)
class _Flat(_Changed):
    """A small matrix whose rows are one vector."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read all of it."""
        return self.stored.read(0, self.stored.rows).reshape(1, -1)[start:stop]


def flattened(weight: Weight) -> Weight:
    """Return a vector that is stored as a matrix, such as numbers of heads with a dimension of 1."""
    if len(weight.shape) == 1:
        return weight
    return _Flat(
        **{**_fields(weight), "shape": (prod(weight.shape),), "row_bytes": weight.rows * weight.row_bytes},
        stored=weight,
    )


@dataclass(frozen=True)
class _Rows(_Changed):
    """Rows of heads in another order, behind `skipped` rows that stay where they are; of a vector its numbers.

    Attributes:
        order: head -> where the file has it.
        size: rows of a head.
    """

    order: tuple[int, ...]
    size: int
    skipped: int

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows run by run; a vector at once."""
        if len(self.shape) == 1:
            return np.ascontiguousarray(self.stored.read(start, stop)[:, [self._at(i) for i in range(self.cols)]])
        return np.concatenate([self.stored.read(at, at + count) for at, count in self._runs(start, stop)])

    def _at(self, row: int) -> int:
        if row < self.skipped:
            return row
        head, inside = divmod(row - self.skipped, self.size)
        return self.skipped + self.order[head] * self.size + inside

    def _runs(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        while start < stop:
            end = self.skipped if start < self.skipped else start + self.size - (start - self.skipped) % self.size
            yield self._at(start), min(end, stop) - start
            start = min(end, stop)


@dataclass(frozen=True)
class _Columns(_Changed):
    """Columns of heads in another order."""

    order: tuple[int, ...]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows and put their columns into order."""
        raw = self.stored.read(start, stop)
        heads = raw.reshape(len(raw), len(self.order), -1)[:, list(self.order)]
        return np.ascontiguousarray(heads.reshape(raw.shape))


@dataclass(frozen=True)
class _LogOfNegative(_Changed):
    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read numbers x that are below 0 as log(-x)."""
        raw = to_f32(self.stored.read(start, stop))
        if not (raw < 0).all():
            raise BundleError(f"{self.file.name}: tensor {self.name!r}: expected numbers below 0. Export a sound file.")
        found: F32 = np.log(-raw.astype(np.float64)).astype(np.float32)
        return found


def rows_ordered(weight: Weight, order: Sequence[int], size: int, skipped: int = 0) -> Weight:
    """Return a weight with the rows of its heads in another order.

    Args:
        weight: as it is stored.
        order: head -> where the file has it.
        size: rows of a head.
        skipped: rows before those of the first head.
    """
    _expect(weight, weight.shape[0] if weight.shape else 0, skipped + len(order) * size, "rows")
    return _Rows(
        **{**_fields(weight), "row_bytes": 2 * weight.row_bytes}, stored=weight, order=tuple(order), size=size,
        skipped=skipped,
    )  # fmt: skip


def columns_ordered(weight: Weight, order: Sequence[int]) -> Weight:
    """Return a matrix with the columns of its heads in another order: head -> where the file has it."""
    _expect(weight, weight.cols % len(order), 0, "columns beyond whole heads")
    return _Columns(**{**_fields(weight), "row_bytes": 3 * weight.row_bytes}, stored=weight, order=tuple(order))


def log_of_negative(weight: Weight) -> Weight:
    """Return log(-x) of what is stored, as float32: the nearest to what -exp was taken of."""
    fields = _fields(weight) | {"dtype": "F32", "row_bytes": weight.row_bytes + 24 * weight.cols}
    return _LogOfNegative(**fields, stored=weight)


def _expect(weight: Weight, got: int, expected: int, what: str) -> None:
    if got != expected:
        raise BundleError(f"{weight.file.name}: tensor {weight.name!r}: expected {expected} {what}, got {got}.")


def _fields(weight: Weight) -> dict[str, Any]:
    names = ("name", "file", "dtype", "shape", "parts", "num_bytes", "row_bytes", "format")
    return {name: getattr(weight, name) for name in names}
