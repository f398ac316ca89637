"""Undo what a conversion to GGUF did to a weight, as its rows are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.errors import BundleError
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


def _fields(weight: Weight) -> dict[str, Any]:
    names = ("name", "file", "dtype", "shape", "parts", "num_bytes", "row_bytes", "format")
    return {name: getattr(weight, name) for name in names}
