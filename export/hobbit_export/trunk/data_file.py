"""The external data file of an ONNX graph: tensors at aligned offsets, written in parts."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.arrays import F32

ALIGN = 64


class Region(NamedTuple):
    """Where a tensor lies in the data file."""

    offset: int
    length: int


class DataFile:
    """Writes tensors of known size in parts and in any order; never holds one whole. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        """Create (or replace) the file."""
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._end = 0

    def __enter__(self) -> DataFile:
        """Return self."""
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        """Close the file; after an error it is left incomplete, without a graph that names it."""
        os.close(self._fd)

    def reserve(self, length: int) -> Region:
        """Take `length` bytes at the next aligned offset; what is not written reads as zero."""
        offset = -(-self._end // ALIGN) * ALIGN
        self._end = offset + length
        os.ftruncate(self._fd, self._end)
        return Region(offset, length)

    def write(self, region: Region, at: int, values: NDArray[Any]) -> None:
        """Write an array's bytes `at` bytes into the region."""
        data = memoryview(np.ascontiguousarray(values).tobytes())
        if at + len(data) > region.length:
            raise ValueError(f"{self.path}: {len(data)} bytes at {at} do not fit the region of {region.length}")
        offset = region.offset + at
        while data:
            written = os.pwrite(self._fd, data, offset)
            data, offset = data[written:], offset + written

    def write_columns(self, region: Region, width: int, start: int, columns: F32) -> None:
        """Write float32 columns [K, n] as columns start.. of the row-major [K, width] matrix in the region."""
        for k, row in enumerate(np.ascontiguousarray(columns)):
            self.write(region, (k * width + start) * row.itemsize, row)
