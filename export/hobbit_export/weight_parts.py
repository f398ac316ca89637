"""Weights that no tensor holds as they are: some rows of each head of one, or one with a number added."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import BundleError
from hobbit_export.checkpoint import to_f32
from hobbit_export.weights import Weight

Shape = tuple[int, ...]
Heads = Callable[[Any], tuple[int, tuple[int, ...]]]
"""From an attention to how many heads a tensor has, and the rows of each part of one head."""


class Derived(Protocol):
    """How a canonical weight comes from a tensor: part of an adapter's names."""

    @property
    def tensor(self) -> str | tuple[str, ...]:
        """Name of the tensor below a layer, or at the top; or several of which one is there."""
        ...

    def stored_shape(self, attention: Any, shape: Shape) -> Shape:
        """Return the shape the tensor must have for a weight of this shape.

        Args:
            attention: of the weight's layer; None at the top.
            shape: of the weight.
        """
        ...

    def view(self, stored: Weight, attention: Any, shape: Shape) -> Weight:
        """Return the weight, for a tensor of the shape it must have."""
        ...


@dataclass(frozen=True)
class HeadRows:
    """One part of each head's rows, such as queries beside their gates; of a vector its numbers.

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
        return (count * sum(sizes), *shape[1:])

    def view(self, stored: Weight, attention: Any, shape: Shape) -> Weight:
        """See `Derived.view`."""
        _, sizes = self.heads(attention)
        first = sum(sizes[: self.part])
        made = _HeadRows if len(shape) > 1 else _HeadNumbers
        row_bytes = 2 * stored.row_bytes  # as it is read, and what is kept of it
        fields = fields_of(stored) | {"shape": shape, "row_bytes": row_bytes}
        return made(**fields, stored=stored, first=first, size=sizes[self.part], every=sum(sizes))


@dataclass(frozen=True)
class PlusOne:
    """A norm's weight stored as its distance from 1."""

    tensor: str | tuple[str, ...]

    def stored_shape(self, attention: Any, shape: Shape) -> Shape:
        """See `Derived.stored_shape`."""
        return shape

    def view(self, stored: Weight, attention: Any, shape: Shape) -> Weight:
        """See `Derived.view`."""
        row_bytes = stored.row_bytes + 8 * stored.cols
        return _PlusOne(**(fields_of(stored) | {"dtype": "F32", "row_bytes": row_bytes}), stored=stored)


@dataclass(frozen=True)
class View(Weight):
    """A weight made of another one."""

    stored: Weight

    def transposed(self) -> Weight:
        """Not needed: only experts are turned."""
        raise NotImplementedError(self.name)


@dataclass(frozen=True)
class RowBlock(Weight):
    """Some rows of a weight: one of several equal blocks.

    Attributes:
        whole: the weight.
        first: its row the block begins at.
    """

    whole: Weight
    first: int

    @staticmethod
    def of(whole: Weight, name: str, index: int, count: int) -> RowBlock:
        """Return block `index` of `count`.

        Raises:
            BundleError: the rows cannot be parted so.
        """
        rows = whole.shape[0] if len(whole.shape) > 1 else 0
        if rows == 0 or rows % count:
            raise BundleError(
                f"{whole.file.name}: tensor {whole.name!r}: expected rows in {count} equal blocks, "
                f"got shape {list(whole.shape)}. config.json does not fit it."
            )
        shape = (rows // count, *whole.shape[1:])
        start = index * prod(shape[:-1])
        return RowBlock(
            name,
            whole.file,
            whole.dtype,
            shape,
            whole.parts,
            whole.num_bytes // count,
            whole.row_bytes,
            "",
            whole,
            start,
        )

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows of the block."""
        return self.whole.read(self.first + start, self.first + stop)

    def transposed(self) -> Weight:
        """Refuse: no family stores parts of a transposed tensor.

        Raises:
            BundleError: always.
        """
        raise BundleError(f"{self.file.name}: tensor {self.name!r}: a block of rows cannot be read transposed.")


@dataclass(frozen=True)
class _HeadRows(View):
    """Rows `first` to first + size of every `every` rows."""

    first: int
    size: int
    every: int

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """See `Weight.read`."""
        return np.concatenate([self.stored.read(first, last) for first, last in self._runs(start, stop)])

    def _runs(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        while start < stop:
            head, row = divmod(start, self.size)
            count = min(self.size - row, stop - start)
            first = head * self.every + self.first + row
            yield first, first + count
            start += count


@dataclass(frozen=True)
class _HeadNumbers(View):
    """The same of a vector's numbers."""

    first: int
    size: int
    every: int

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """See `Weight.read`."""
        by_head = self.stored.read(start, stop).reshape(-1, self.every)
        return np.ascontiguousarray(by_head[:, self.first : self.first + self.size]).reshape(stop - start, -1)


@dataclass(frozen=True)
class _PlusOne(View):
    def read(self, start: int, stop: int) -> NDArray[Any]:
        """See `Weight.read`."""
        shifted: F32 = to_f32(self.stored.read(start, stop)) + np.float32(1)
        return shifted


def fields_of(weight: Weight) -> dict[str, Any]:
    """A weight's own fields, for one made of it: how it is stored is reported once."""
    names = ("name", "file", "dtype", "shape", "parts", "num_bytes", "row_bytes")
    return {name: getattr(weight, name) for name in names} | {"format": ""}
