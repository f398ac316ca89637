"""Weights of which only names are known, from the index of a checkpoint: each is taken to be what the model asks for.

Types are those that the configuration states, shapes those it asks for; whoever shows sizes made of them says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from hobbit_export.safetensors import DTYPE_BYTES
from hobbit_export.weights import Weight

_DECODED_ROW_BYTES = 3 * 4
"""Memory a weight of a row takes at most while it is decoded: codes, their values, and scales."""


@dataclass(frozen=True)
class UnreadWeight(Weight):
    """A weight of an index; it has no shape and no bytes until the model's configuration says which it must have."""

    @staticmethod
    def of(name: str, file: Path, dtype: str, parts: tuple[str, ...], kind: str) -> UnreadWeight:
        """Return a weight that is made of these stored tensors, in the format `kind`; "" where it is plain."""
        return UnreadWeight(name, file, "F32" if kind else dtype, (), parts, 0, 0, kind)

    @property
    def is_known(self) -> bool:
        """Whether the model's configuration has said what it is."""
        return self.num_bytes > 0

    def asked_for(self, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> Weight:
        """Return it with that shape, and one of those types."""
        if self.is_known:
            return self
        dtype = self.dtype if self.dtype in dtypes else dtypes[0]
        row_bytes = (shape[-1] if shape else 1) * (_DECODED_ROW_BYTES if self.format else DTYPE_BYTES[dtype])
        num_bytes = prod(shape) * DTYPE_BYTES[dtype]
        return replace(self, dtype=dtype, shape=shape, num_bytes=num_bytes, row_bytes=row_bytes)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Refuse: nobody reads weights in a dry run."""
        raise NotImplementedError(self.name)

    def transposed(self) -> Weight:
        """Return itself: its shape is the one that is asked for."""
        return self


@dataclass(frozen=True)
class UnreadFiles:
    """`Storage` of files that were not opened; `weight_bytes` are stated."""

    path: Path
    files: list[Path]
    weight_bytes: int

    def samples(self) -> Iterator[bytes]:
        """Refuse: nobody tells sources apart in a dry run."""
        raise NotImplementedError(self.path)

    def close(self) -> None:
        """Close nothing."""

    def __enter__(self) -> UnreadFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
