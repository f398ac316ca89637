"""Weights of MLA that no tensor holds as they are: rotated rows that alternate, columns of one head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.arrays import Ints
from hobbit_export.weight_parts import Heads, Shape, View, fields_of
from hobbit_export.weights import Weight

_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Halves:
    """Rows of heads whose rotated ones, the last, are stored in pairs and wanted as halves; of a vector its numbers.

    Attributes:
        tensor: see `Derived`.
        heads: says how many rows of a head are not rotated, and how many are.
    """

    tensor: str | tuple[str, ...]
    heads: Heads

    def stored_shape(self, attention: Any, shape: Shape) -> Shape:
        """See `Derived.stored_shape`."""
        return shape

    def view(self, stored: Weight, attention: Any, shape: Shape) -> Weight:
        """See `Derived.view`."""
        count, (kept, rotated) = self.heads(attention)
        pairs = kept + np.arange(rotated)
        order = np.concatenate((np.arange(kept), pairs[::2], pairs[1::2]))
        made = _HalfRows if len(shape) > 1 else _HalfNumbers
        # rows of one half are read with those of the other between them
        return made(
            **(fields_of(stored) | {"row_bytes": 3 * stored.row_bytes}), stored=stored, order=order, count=count
        )


@dataclass(frozen=True)
class HeadColumns:
    """One part of each head's rows, transposed: [heads * columns, rows of the part].

    Attributes:
        tensor: see `Derived`.
        part: which.
        heads: says how the rows are laid out.
    """

    tensor: str | tuple[str, ...]
    part: int
    heads: Heads

    def stored_shape(self, attention: Any, shape: Shape) -> Shape:
        """See `Derived.stored_shape`."""
        count, sizes = self.heads(attention)
        return (count * sum(sizes), shape[0] // count)

    def view(self, stored: Weight, attention: Any, shape: Shape) -> Weight:
        """See `Derived.view`."""
        _, sizes = self.heads(attention)
        fields = fields_of(stored) | {"shape": shape, "row_bytes": stored.row_bytes + 8 * shape[1]}
        return _HeadColumns(**fields, stored=stored, first=sum(sizes[: self.part]), every=sum(sizes))


@dataclass(frozen=True)
class _HalfRows(View):
    order: Ints
    count: int

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """See `Weight.read`."""
        return np.concatenate(
            [self._of_head(head, first, last) for head, first, last in _heads(start, stop, len(self.order))]
        )

    def _of_head(self, head: int, first: int, last: int) -> NDArray[Any]:
        rows = self.order[first:last]
        low, base = int(rows.min()), head * len(self.order)
        block = self.stored.read(base + low, base + int(rows.max()) + 1)
        return np.asarray(block[rows - low])


@dataclass(frozen=True)
class _HalfNumbers(View):
    order: Ints
    count: int

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """See `Weight.read`."""
        by_head = self.stored.read(start, stop).reshape(-1, len(self.order))
        return np.ascontiguousarray(by_head[:, self.order]).reshape(stop - start, -1)


@dataclass(frozen=True)
class _HeadColumns(View):
    first: int
    every: int

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """See `Weight.read`."""
        parts = [self._of_head(head, slice(first, last)) for head, first, last in _heads(start, stop, self.stored.cols)]
        return np.ascontiguousarray(np.concatenate(parts))

    def _of_head(self, head: int, columns: slice) -> NDArray[Any]:
        base, size = head * self.every + self.first, self.cols
        rows = [
            self.stored.read(base + at, base + min(at + _ROWS_AT_ONCE, size))[:, columns].T
            for at in range(0, size, _ROWS_AT_ONCE)
        ]
        return np.concatenate(rows, axis=1)


def _heads(start: int, stop: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Cut rows into heads of `size`: head, and its first and last (exclusive) row."""
    while start < stop:
        head, row = divmod(start, size)
        last = min(size, row + stop - start)
        yield head, row, last
        start += last - row
