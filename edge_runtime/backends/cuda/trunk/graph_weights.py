"""The weights of one graph of a bundle, in device memory. The graph is checked as for ONNX Runtime; it is not run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from edge_runtime.backends.cpu.trunk.graph_check import read_checked
from edge_runtime.backends.cpu.trunk.graph_file import FLOAT, UINT8, Tensor
from edge_runtime.backends.cpu.trunk.signature import Signature
from edge_runtime.backends.cuda.driver import DeviceMemory, Stream
from edge_runtime.backends.cuda.trunk.launches import DeviceMatrix
from edge_runtime.backends.cuda.trunk.structures import CODES
from edge_runtime.base.arrays import U8
from edge_runtime.base.errors import BundleError
from edge_runtime.base.sizes import align_up
from edge_runtime.bundle.bundle import Bundle

_ALIGN = 256
_READ_BYTES = 16 << 20


class GraphWeights:
    """Tensors of a graph, copied to the GPU as they are asked for.

    Args:
        bundle: an open bundle whose parts were checked.
        part: name of the graph.
        signature: what the format says of it.
        stream: orders the copies.

    Raises:
        BundleError: the graph cannot be read, or is not of the exporter's kind.
        CudaMemoryError: the GPU has no room.
    """

    def __init__(self, bundle: Bundle, part: str, signature: Signature, stream: Stream) -> None:
        self._part, self._stream = part, stream
        path = bundle.file_of(bundle.manifest.part(part))
        self._data = path.with_suffix(".data")
        tensors = read_checked(path, part, signature).tensors
        self._tensors = {name: t for name, t in tensors.items() if t.kind in (FLOAT, UINT8)}
        self.nbytes = sum(align_up(_size(t), _ALIGN) for t in self._tensors.values())
        self._memory, self._end = DeviceMemory(stream.device, self.nbytes), 0

    def vector(self, name: str, numbers: int) -> int:
        """Return the address of a small float32 tensor.

        Raises:
            BundleError: it is not there, or has another size.
        """
        tensor = self._named(name, FLOAT)
        if _size(tensor) != 4 * numbers:
            raise self._refused(name, f"{numbers} numbers", tensor)
        return self._put(tensor)

    def matrix(self, label: str, outputs: int, inputs: int, *, bias: str = "") -> DeviceMatrix:
        """Return a matrix, in whichever precision it is stored.

        Args:
            label: name of the tensor; codes have ``_q8`` or ``_q4`` behind it.
            outputs: N.
            inputs: K.
            bias: name of the vector added, if there is one.

        Raises:
            BundleError: it is not there, or has another shape.
        """
        offset = self.vector(bias, outputs) if bias else 0
        for bits in (8, 4):
            if f"{label}_q{bits}" in self._tensors:
                return self._codes(label, bits, (outputs, inputs), offset)
        tensor = self._named(label, FLOAT)
        if tensor.dims != (inputs, outputs):
            raise self._refused(label, f"[{inputs}, {outputs}]", tensor)
        return DeviceMatrix(inputs, outputs, self._put(tensor), bias=offset)

    def matrices(self, labels: Sequence[str], outputs: int, inputs: int) -> DeviceMatrix:
        """Return matrices of one size, at equal distances.

        Raises:
            BundleError: one is not there, has another shape, or is not stored as the first one is.
        """
        each = [self.matrix(label, outputs, inputs) for label in labels]
        if len({(m.bits, m.block) for m in each}) != 1:
            raise BundleError(f"{self._part}: {labels[0]!r} and others differ in their form. Export the bundle again.")
        first, second = each[0], each[min(1, len(each) - 1)]
        steps = second.weights - first.weights, second.scales - first.scales
        return replace(first, count=len(each), step=steps[0], scale_step=steps[1])

    def rows(self, names: Sequence[str], numbers: int) -> tuple[int, int]:
        """Return the address of the first of some vectors, and how many numbers lie from one to the next.

        Raises:
            BundleError: one is not there, or has another size.
        """
        addresses = [self.vector(name, numbers) for name in names]
        return addresses[0], (addresses[min(1, len(names) - 1)] - addresses[0]) // 4

    def close(self) -> None:
        """Give the memory back. Safe to call twice."""
        self._memory.close()

    def _codes(self, label: str, bits: int, shape: tuple[int, int], bias: int) -> DeviceMatrix:
        outputs, inputs = shape
        name = f"{label}_q{bits}"
        tensor = self._named(name, UINT8)
        rows, blocks, packed = tensor.dims if len(tensor.dims) == 3 else (0, 0, 0)
        block = packed * 8 // bits
        if block not in (CODES, 2 * CODES, 4 * CODES, 8 * CODES) or (rows, blocks) != (outputs, -(-inputs // block)):
            raise self._refused(name, f"codes of [{outputs}, {inputs}]", tensor)
        scales = self.vector(f"{label}_scale", outputs * blocks)
        return DeviceMatrix(inputs, outputs, self._put(tensor), bits, scales, block, bias)

    def _named(self, name: str, kind: int) -> Tensor:
        tensor = self._tensors.get(name)
        if tensor is None or tensor.kind != kind:
            raise BundleError(f"{self._part}: expected a tensor {name!r}. Export the bundle again.")
        return tensor

    def _refused(self, name: str, expected: str, tensor: Tensor) -> BundleError:
        return BundleError(
            f"{self._part}: tensor {name!r}: expected {expected}, got {list(tensor.dims)}. Export the bundle again."
        )

    def _put(self, tensor: Tensor) -> int:
        start = self._end
        for block in self._blocks(tensor):
            self._memory.write(block, self._stream, self._end)
            self._end += block.nbytes
        self._end = align_up(self._end, _ALIGN)
        return self._memory.address + start

    def _blocks(self, tensor: Tensor) -> Iterator[U8]:
        """Yield a tensor's bytes, a few at a time."""
        region = tensor.region
        if region is None:
            yield np.frombuffer(tensor.inside, np.uint8)
            return
        for at in range(0, region.length, _READ_BYTES):
            count = min(_READ_BYTES, region.length - at)
            block = np.fromfile(self._data, np.uint8, count, offset=region.offset + at)
            if block.nbytes != count:
                raise BundleError(f"{self._part}: its data cannot be read. Export the bundle again.")
            yield block


def _size(tensor: Tensor) -> int:
    return len(tensor.inside) if tensor.region is None else tensor.region.length
