"""The weights of one graph of a bundle, packed for the kernels. The graph is checked as for ONNX Runtime, not run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cpu.kernels import DenseMatrix
from edge_runtime.backends.cpu.trunk.file_pages import drop_cached_pages
from edge_runtime.backends.cpu.trunk.graph_check import read_checked
from edge_runtime.backends.cpu.trunk.graph_file import FLOAT, UINT8, Tensor
from edge_runtime.backends.cpu.trunk.signature import Signature
from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import BundleError

_READ_BYTES = 512 << 10
BLOCKS = (16, 32, 64, 128, 256)
"""Inputs under one scale that the kernels know."""


class GraphTensors:
    """Tensors of a graph as they are asked for; what is packed is not held twice.

    Args:
        bundle_path: directory of a bundle whose parts were checked.
        part: name of the graph.
        signature: what the format says of it.
        isa: instruction set that matrices are packed for.

    Raises:
        BundleError: the graph cannot be read, or is not of the exporter's kind.
    """

    def __init__(self, bundle_path: Path, part: str, signature: Signature, isa: str) -> None:
        self._part, self._isa, self._path = part, isa, bundle_path / part
        self._data = self._path.with_suffix(".data")
        self._tensors = read_checked(self._path, part, signature).tensors
        self.nbytes = 0
        """Of what was handed out."""

    def vector(self, name: str, numbers: int) -> F32:
        """Return a small float32 tensor, flat.

        Raises:
            BundleError: it is not there, or has another size.
        """
        tensor = self._named(name, FLOAT)
        if 4 * numbers != _size(tensor):
            raise self._refused(name, f"{numbers} numbers", tensor)
        self.nbytes += 4 * numbers
        return self._read(tensor, np.dtype("<f4"), numbers)

    def matrix(self, label: str, outputs: int, inputs: int, *, exact: bool = False) -> DenseMatrix:
        """Return a matrix, in whichever precision it is stored.

        Args:
            label: name of the tensor; codes have ``_q8`` or ``_q4`` behind it.
            outputs: N.
            inputs: K.
            exact: it is one that the exporter keeps in float32 in every precision.

        Raises:
            BundleError: it is not there, or has another shape.
        """
        for bits in () if exact else (8, 4):
            if f"{label}_q{bits}" in self._tensors:
                return self._codes(label, bits, outputs, inputs)
        tensor = self._named(label, FLOAT)
        if tensor.dims != (inputs, outputs):
            raise self._refused(label, f"[{inputs}, {outputs}]", tensor)
        matrix = DenseMatrix(outputs, inputs, isa=self._isa)
        for first, rows in self._rows(tensor, np.dtype("<f4"), inputs, outputs):
            matrix.put_floats(first, rows)
        self.nbytes += matrix.nbytes
        return matrix

    def close(self) -> None:
        """Let go of the files' pages."""
        for path in (self._path, self._data):
            if path.exists():
                drop_cached_pages(path)

    def _codes(self, label: str, bits: int, outputs: int, inputs: int) -> DenseMatrix:
        name = f"{label}_q{bits}"
        tensor = self._named(name, UINT8)
        rows, blocks, packed = tensor.dims if len(tensor.dims) == 3 else (0, 0, 0)
        block = packed * 8 // bits
        if rows != outputs or block not in BLOCKS or blocks != -(-inputs // block):
            raise self._refused(name, f"codes of [{outputs}, {inputs}]", tensor)
        scales = self.vector(f"{label}_scale", outputs * blocks).reshape(outputs, blocks)
        matrix = DenseMatrix(outputs, inputs, bits, block, isa=self._isa)
        for first, codes in self._rows(tensor, np.dtype(np.uint8), outputs, blocks * packed):
            matrix.put_codes(first, codes.reshape(-1, blocks, packed), scales[first : first + len(codes)])
        self.nbytes += matrix.nbytes - scales.nbytes
        return matrix

    def _named(self, name: str, kind: int) -> Tensor:
        tensor = self._tensors.get(name)
        if tensor is None or tensor.kind != kind:
            raise BundleError(f"{self._part}: expected a tensor {name!r}. Export the bundle again.")
        return tensor

    def _refused(self, name: str, expected: str, tensor: Tensor) -> BundleError:
        return BundleError(
            f"{self._part}: tensor {name!r}: expected {expected}, got {list(tensor.dims)}. Export the bundle again."
        )

    def _read(self, tensor: Tensor, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        """Return a tensor's numbers, flat."""
        if tensor.region is None:
            return np.frombuffer(tensor.inside, dtype, count)
        found = np.fromfile(self._data, dtype, count, offset=tensor.region.offset)
        if len(found) != count:
            raise self._unreadable()
        return found

    def _rows(self, tensor: Tensor, dtype: np.dtype[Any], rows: int, width: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield the first row of some, and these, which are there until the next ones are: one memory for all."""
        if tensor.region is None:
            yield 0, np.frombuffer(tensor.inside, dtype, rows * width).reshape(rows, width)
            return
        step = max(1, _READ_BYTES // (width * dtype.itemsize))
        memory = np.empty((min(step, rows), width), dtype)
        with open(self._data, "rb") as file:
            file.seek(tensor.region.offset)
            for first in range(0, rows, step):
                found = memory[: rows - first]
                if file.readinto(found.data) != found.nbytes:
                    raise self._unreadable()
                yield first, found

    def _unreadable(self) -> BundleError:
        return BundleError(f"{self._part}: its data cannot be read. Export the bundle again.")


def _size(tensor: Tensor) -> int:
    return len(tensor.inside) if tensor.region is None else tensor.region.length
