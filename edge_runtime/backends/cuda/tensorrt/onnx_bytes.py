"""ONNX models as bytes: the few fields that a lowered graph needs, written without the onnx package."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

from edge_runtime.backends.cpu.trunk.graph_file import Attribute

FLOAT, UINT8, INT64, FLOAT16, INT4 = 1, 2, 7, 10, 22
BITS = {FLOAT: 32, UINT8: 8, INT64: 64, FLOAT16: 16, INT4: 4}
"""Of a number of each type, as ONNX numbers them."""
Dims = Sequence[int | str]


def node(
    op: str, name: str, inputs: Iterable[str], outputs: Iterable[str], attributes: Mapping[str, Attribute],
    domain: str = "",
) -> bytes:  # fmt: skip
    """Return a NodeProto of a domain, ONNX's own if left out."""
    listed = b"".join(_text(1, each) for each in inputs) + b"".join(_text(2, each) for each in outputs)
    given = b"".join(_message(5, _attribute(*each)) for each in attributes.items())
    return listed + _text(3, name) + _text(4, op) + given + (_text(7, domain) if domain else b"")


def tensor(name: str, kind: int, dims: Sequence[int], raw: bytes) -> bytes:
    """Return a TensorProto with its bytes inside."""
    return _tensor_head(name, kind, dims) + _message(9, raw)


def external_tensor(name: str, kind: int, dims: Sequence[int], location: str, offset: int, length: int) -> bytes:
    """Return a TensorProto whose bytes lie in a file beside the model."""
    entries = (("location", location), ("offset", str(offset)), ("length", str(length)))
    listed = b"".join(_message(13, _text(1, key) + _text(2, value)) for key, value in entries)
    return _tensor_head(name, kind, dims) + listed + _number(14, 1)


def declared(name: str, kind: int, dims: Dims) -> bytes:
    """Return a ValueInfoProto; sizes that vary have a name."""
    shape = b"".join(_message(1, _number(1, dim) if isinstance(dim, int) else _text(2, dim)) for dim in dims)
    return _text(1, name) + _message(2, _message(1, _number(1, kind) + _message(2, shape)))


def model(
    name: str, nodes: Iterable[bytes], tensors: Iterable[bytes], inputs: Iterable[bytes], outputs: Iterable[bytes],
    *, opset: int, ir_version: int, domains: Iterable[str] = (),
) -> bytes:  # fmt: skip
    """Return a ModelProto; of further domains it takes version 1."""
    graph = b"".join(_message(1, each) for each in nodes) + _text(2, name)
    for number, parts in ((5, tensors), (11, inputs), (12, outputs)):
        graph += b"".join(_message(number, each) for each in parts)
    head = _number(1, ir_version) + _text(2, "hobbit-edge") + _message(7, graph) + _message(8, _number(2, opset))
    return head + b"".join(_message(8, _text(1, domain) + _number(2, 1)) for domain in domains)


def _tensor_head(name: str, kind: int, dims: Sequence[int]) -> bytes:
    return b"".join(_number(1, dim) for dim in dims) + _number(2, kind) + _text(8, name)


def _attribute(name: str, value: Attribute) -> bytes:
    head = _text(1, name)
    if isinstance(value, float):
        return head + _tag(2, 5) + struct.pack("<f", value) + _number(20, 1)
    if isinstance(value, int):
        return head + _number(3, value) + _number(20, 2)
    return head + b"".join(_number(8, each) for each in value) + _number(20, 7)


def _tag(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _number(number: int, value: int) -> bytes:
    return _tag(number, 0) + _varint(value)


def _text(number: int, text: str) -> bytes:
    return _message(number, text.encode())


def _message(number: int, raw: bytes) -> bytes:
    return _tag(number, 2) + _varint(len(raw)) + raw


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers are of 64 bits
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
