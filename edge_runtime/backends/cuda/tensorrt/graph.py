"""A lowered graph: nodes of ONNX's own domain, and tensors whose bytes are made when they are written.

What a bundle stores is float32; values here are float32 too, but for whole numbers of shapes, and for what a product
in half precision reads and writes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import NamedTuple

from edge_runtime.backends.cpu.trunk.graph_file import Attribute
from edge_runtime.backends.cuda.tensorrt import onnx_bytes
from edge_runtime.backends.cuda.tensorrt.onnx_bytes import BITS, FLOAT, INT64

_ALIGN, _INSIDE = 64, 4096


class Step(NamedTuple):
    """A node."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = {}


class Weight(NamedTuple):
    """A tensor that is stored.

    Attributes:
        kind: number type, as ONNX numbers it.
        dims: its shape.
        blocks: makes its bytes, a few at a time.
        ints: its values, of a short list of whole numbers.
        number: its value, of a single float32.
    """

    kind: int
    dims: tuple[int, ...]
    blocks: Callable[[], Iterator[bytes]]
    ints: tuple[int, ...] | None = None
    number: float | None = None

    @property
    def nbytes(self) -> int:
        """What it takes."""
        return -(-BITS[self.kind] * prod(self.dims) // 8)


class Value(NamedTuple):
    """An input or output."""

    kind: int
    dims: tuple[int | str, ...]


@dataclass
class Lowered:
    """A graph on its way to a parser.

    Attributes:
        name: of the graph.
        steps: in an order in which they can run.
        weights: stored tensors, by name.
        inputs: by name.
        outputs: by name.
        opset: of ONNX.
    """

    name: str
    steps: list[Step] = field(default_factory=list)
    weights: dict[str, Weight] = field(default_factory=dict)
    inputs: dict[str, Value] = field(default_factory=dict)
    outputs: dict[str, Value] = field(default_factory=dict)
    opset: int = 18
    _made: int = 0

    def add(self, op: str, *inputs: str, out: str = "", **attributes: Attribute) -> str:
        """Append a node with one output and return its name."""
        return self.add_many(op, [out or self.fresh(op)], *inputs, **attributes)[0]

    def add_many(self, op: str, outputs: Sequence[str], *inputs: str, **attributes: Attribute) -> list[str]:
        """Append a node; outputs without a name get one."""
        named = [out or self.fresh(op) for out in outputs]
        self.steps.append(Step(op, inputs, tuple(named), attributes))
        return named

    def fresh(self, what: str) -> str:
        """Return a name that is not taken."""
        self._made += 1
        return f"{what.lower()}.{self._made}"

    def ints(self, *values: int) -> str:
        """Return a stored list of whole numbers."""
        raw = struct.pack(f"<{len(values)}q", *values)
        name = self.fresh("ints")
        self.weights[name] = Weight(INT64, (len(values),), lambda: iter((raw,)), ints=values)
        return name

    def scalar(self, value: float) -> str:
        """Return a stored float32."""
        raw, name = struct.pack("<f", value), self.fresh("scalar")
        self.weights[name] = Weight(FLOAT, (), lambda: iter((raw,)), number=value)
        return name

    def write(self, folder: Path) -> Path:
        """Write the model and, beside it, the file of its large tensors; return the model's path.

        Raises:
            OSError: the folder cannot be written.
        """
        data = folder / f"{self.name}.weights"
        with open(data, "wb") as file:
            tensors = [self._stored(name, weight, file, data.name) for name, weight in self.weights.items()]
        path = folder / f"{self.name}.onnx"
        path.write_bytes(self._model(tensors))
        return path

    def _stored(self, name: str, weight: Weight, file: object, location: str) -> bytes:
        if weight.nbytes <= _INSIDE:
            return onnx_bytes.tensor(name, weight.kind, weight.dims, b"".join(weight.blocks()))
        assert hasattr(file, "write")
        assert hasattr(file, "tell")
        file.write(b"\0" * (-file.tell() % _ALIGN))
        offset = file.tell()
        for block in weight.blocks():
            file.write(block)
        assert file.tell() - offset == weight.nbytes, f"{name}: {file.tell() - offset} bytes, not {weight.nbytes}"
        return onnx_bytes.external_tensor(name, weight.kind, weight.dims, location, offset, weight.nbytes)

    def _model(self, tensors: list[bytes]) -> bytes:
        nodes = [
            onnx_bytes.node(step.op, f"{step.op.lower()}_{i}", step.inputs, step.outputs, dict(step.attributes))
            for i, step in enumerate(self.steps)
        ]
        values = [
            [onnx_bytes.declared(name, *value) for name, value in each.items()] for each in (self.inputs, self.outputs)
        ]
        ir_version = 8 if self.opset <= 18 else 11
        return onnx_bytes.model(self.name, nodes, tensors, *values, opset=self.opset, ir_version=ir_version)


def file_blocks(path: Path, offset: int, length: int, most: int = 16 << 20) -> Iterator[bytes]:
    """Yield bytes of a file, a few at a time.

    Raises:
        OSError: it has fewer.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while length:
            block = os.pread(fd, min(most, length), offset)
            if not block:
                raise OSError(0, f"{path} ends early")
            yield block
            offset, length = offset + len(block), length - len(block)
    finally:
        os.close(fd)
