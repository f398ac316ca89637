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
        return self._read(tensor, np.dtype("<f4"), 0, numbers)

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
        for first, last in _row_blocks(inputs, 4 * outputs):
            rows = self._read(tensor, np.dtype("<f4"), first * outputs, (last - first) * outputs)
            matrix.put_floats(first, rows.reshape(-1, outputs))
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
        for first, last in _row_blocks(outputs, blocks * packed):
            codes = self._read(tensor, np.dtype(np.uint8), first * blocks * packed, (last - first) * blocks * packed)
            matrix.put_codes(first, codes.reshape(-1, blocks, packed), scales[first:last])
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

    def _read(self, tensor: Tensor, dtype: np.dtype[Any], first: int, count: int) -> NDArray[Any]:
        """Return some of a tensor's numbers."""
        region, offset = tensor.region, first * dtype.itemsize
        if region is None:
            return np.frombuffer(tensor.inside, dtype, count, offset)
        found = np.fromfile(self._data, dtype, count, offset=region.offset + offset)
        if len(found) != count:
            raise BundleError(f"{self._part}: its data cannot be read. Export the bundle again.")
        return found


def _size(tensor: Tensor) -> int:
    return len(tensor.inside) if tensor.region is None else tensor.region.length


def _row_blocks(rows: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut rows into blocks that are read at once."""
    step = max(1, _READ_BYTES // row_bytes)
    for first in range(0, rows, step):
        yield first, min(rows, first + step)
