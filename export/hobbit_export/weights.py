"""The seam between a model's weights and how files store them: each weight a matrix whose rows are read on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import BundleError
from hobbit_export.checkpoint import RAW_DTYPES, Checkpoint, is_finite, to_f32
from hobbit_export.safetensors import DTYPE_BYTES


@dataclass(frozen=True)
class Weight(ABC):
    """A weight as adapters name it, plain or made of several stored tensors. Shapes and types of all are checked.

    Attributes:
        name: of the weight, for messages too.
        file: where it (or its first part) lies.
        dtype: safetensors type of the rows `read` returns; a quantised weight is decoded to "F32".
        shape: of the weight, not of what is stored.
        parts: names of the stored tensors it is made of.
        num_bytes: of all its parts.
        row_bytes: memory that `read` takes at most for each row, the result included.
        format: how it is stored, for the report; "" where it is plain.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    parts: tuple[str, ...]
    num_bytes: int
    row_bytes: int
    format: str

    @property
    def rows(self) -> int:
        """Product of all dimensions but the last: the weight seen as a matrix."""
        return prod(self.shape[:-1])

    @property
    def cols(self) -> int:
        """Length of the last dimension (1 for a scalar)."""
        return self.shape[-1] if self.shape else 1

    @property
    def plain_bytes(self) -> int:
        """Bytes of the weight in `dtype`."""
        return self.rows * self.cols * DTYPE_BYTES[self.dtype]

    @property
    def is_known(self) -> bool:
        """Whether shape and bytes are known."""
        return True

    def asked_for(self, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> Weight:
        """Return the weight that a model asks for in this shape and one of these types: what is stored is what it is.

        Args:
            shape: of the weight.
            dtypes: safetensors types.
        """
        return self

    @abstractmethod
    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows as [stop - start, cols] in numpy's type of `dtype` (bfloat16 as uint16), in new memory.

        Raises:
            BundleError: a file ended early, or what is stored cannot be decoded.
        """

    @abstractmethod
    def transposed(self) -> Weight:
        """Return the weight with its last two dimensions exchanged.

        Raises:
            BundleError: it is stored in a way that cannot be read so.
        """

    def stored_bytes(self, start: int, stop: int) -> int:
        """Bytes of the files that these rows stand for; those of all rows add up to `num_bytes`."""
        rows = max(1, self.rows)
        return self.num_bytes * stop // rows - self.num_bytes * start // rows


class Storage(Protocol):
    """The open files of a source: `Checkpoint`, or another kind of file."""

    @property
    def path(self) -> Path:
        """What the export was asked for."""
        ...

    @property
    def files(self) -> list[Path]:
        """Weight files, sorted by name."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Bytes of all stored tensors."""
        ...

    def samples(self) -> Iterator[bytes]:
        """Yield what tells sources of one shape apart: names, types and shapes, and samples of the bytes."""
        ...

    def close(self) -> None:
        """Close all files."""
        ...

    def __enter__(self) -> Any: ...
    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class PlainWeight(Weight):
    """A tensor of floating-point numbers (or, for routers, integers), stored as it is."""

    checkpoint: Checkpoint

    @staticmethod
    def of(checkpoint: Checkpoint, name: str) -> PlainWeight:
        """Return a tensor of a checkpoint."""
        t = checkpoint.tensors[name]
        row_bytes = t.cols * DTYPE_BYTES[t.dtype]
        return PlainWeight(name, t.file, t.dtype, t.shape, (name,), t.num_bytes, row_bytes, "", checkpoint)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows in the tensor's own type."""
        return self.checkpoint.raw_rows(self.name, start, stop)

    def transposed(self) -> Weight:
        """Return a view whose rows are columns of what is stored."""
        *outer, k, n = self.shape
        row_bytes = 2 * k * DTYPE_BYTES[self.dtype]  # as it is stored, and transposed
        return _Transposed(
            self.name, self.file, self.dtype, (*outer, n, k), self.parts, self.num_bytes, row_bytes, "", self
        )


@dataclass(frozen=True)
class _Transposed(Weight):
    """A plain tensor [..., K, N] read as [..., N, K]."""

    plain: PlainWeight

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows in the tensor's own type."""
        per_matrix, out = self.plain.cols, np.empty((stop - start, self.cols), RAW_DTYPES[self.dtype][1])
        at = start
        while at < stop:
            matrix, first = divmod(at, per_matrix)
            until = min(stop, (matrix + 1) * per_matrix)
            rows, columns = slice(matrix * self.cols, (matrix + 1) * self.cols), slice(first, first + until - at)
            out[at - start : until - start] = self.plain.checkpoint.raw_block(self.name, rows, columns).T
            at = until
        return out

    def transposed(self) -> Weight:
        """Return the tensor as it is stored."""
        return self.plain


def plain_weights(checkpoint: Checkpoint) -> dict[str, Weight]:
    """Return every tensor of a checkpoint, as it is stored."""
    return {name: PlainWeight.of(checkpoint, name) for name in checkpoint.tensors}


def finite_rows(weight: Weight, start: int, stop: int) -> F32:
    """Read rows of a weight as float32.

    Raises:
        BundleError: a weight is not finite.
    """
    return finite(weight.read(start, stop), weight.name, start, stop)


def finite(raw: NDArray[Any], name: str, start: int, stop: int) -> F32:
    """Widen raw rows `start` to `stop` of a weight to float32.

    Raises:
        BundleError: a weight is not finite.
    """
    if not is_finite(raw):
        raise BundleError(
            f"tensor {name!r}: rows {start} to {stop}: expected finite weights, got infinity or NaN. "
            "Export a sound checkpoint."
        )
    return to_f32(raw)


def formats_of(weights: Mapping[str, Weight]) -> dict[str, int]:
    """Return how many weights are stored in each format that is not plain."""
    formats = sorted(weight.format for weight in weights.values() if weight.format)
    return {name: formats.count(name) for name in dict.fromkeys(formats)}
