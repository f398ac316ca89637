"""Weights that no tensor holds as they are: some rows of each head of one, or one with a number added."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

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
        shifted: NDArray[np.float32] = to_f32(self.stored.read(start, stop)) + np.float32(1)
        return shifted


def fields_of(weight: Weight) -> dict[str, Any]:
    """A weight's own fields, for one made of it: how it is stored is reported once."""
    names = ("name", "file", "dtype", "shape", "parts", "num_bytes", "row_bytes")
    return {name: getattr(weight, name) for name in names} | {"format": ""}
