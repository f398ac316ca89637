"""The bytes of a graph as nodes, tensors, inputs and outputs: exactly the fields that the exporter writes.

ONNX has functions, subgraphs, training information, sparse and external tensors, and more with each release. None of it
is needed here, and all of it is code that runs on untrusted bytes. A field that is not listed below is refused.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple, TypeVar

from edge_runtime.backends.cpu.trunk.protobuf import DELIMITED, FIXED32, VARINT, Field, fields, numbers

MAX_NODES, MAX_TENSORS = 256, 512
_MAX_RANK, _MAX_DIM, _MAX_NAME, _MAX_LISTED = 8, 1 << 31, 256, 64
_ITEM_BYTES = {1: 4, 2: 1, 7: 8}
FLOAT, UINT8, INT64 = 1, 2, 7

T = TypeVar("T")
Attribute = int | float | tuple[int, ...]


class Region(NamedTuple):
    """Where a matrix lies: the file beside the graph, and place and size in it, in bytes."""

    location: str
    offset: int
    length: int


class Node(NamedTuple):
    """An operator: ``domain:type`` outside ONNX's own domain."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]


class Tensor(NamedTuple):
    """An initializer.

    Attributes:
        kind: number type, as ONNX numbers it.
        dims: its shape.
        region: where it lies in the data file; None inside the graph.
        ints: values of a short int64 tensor.
        inside: its bytes inside the graph; empty where they lie in the data file.
    """

    kind: int
    dims: tuple[int, ...]
    region: Region | None
    ints: tuple[int, ...] | None
    inside: bytes = b""


class Declared(NamedTuple):
    """An input or output: name, number type, and its dims, those that vary as a name."""

    name: str
    kind: int
    dims: tuple[int | str, ...]


class GraphFile(NamedTuple):
    """What a graph holds."""

    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    inputs: tuple[Declared, ...]
    outputs: tuple[Declared, ...]


def read_graph(model: bytes) -> GraphFile:
    """Read a model's bytes.

    Raises:
        ValueError: damaged, or with anything that the exporter does not write.
    """
    top = _by_number(model, "model", once={1: VARINT, 2: DELIMITED, 3: DELIMITED, 7: DELIMITED}, many={8})
    graph = _by_number(_only(top, 7, "graph"), "graph", once={2: DELIMITED}, many={1, 5, 11, 12})
    nodes, tensors = graph.get(1, []), graph.get(5, [])
    if len(nodes) > MAX_NODES or len(tensors) > MAX_TENSORS:
        raise ValueError(f"at most {MAX_NODES} nodes and {MAX_TENSORS} tensors, got {len(nodes)} and {len(tensors)}")
    named = dict(_tensor(field.raw) for field in tensors)
    if len(named) != len(tensors):
        raise ValueError("a tensor is there twice")
    return GraphFile(
        tuple(_node(field.raw) for field in nodes),
        named,
        tuple([_same_in_layers(_declared, field.raw) for field in graph.get(11, [])]),
        tuple([_same_in_layers(_declared, field.raw) for field in graph.get(12, [])]),
    )


def _node(raw: bytes) -> Node:
    found = _by_number(raw, "node", once={3: DELIMITED, 4: DELIMITED, 7: DELIMITED}, many={1, 2, 5})
    kind, domain = _text(found.get(4, ())), _text(found.get(7, ()))
    inputs, outputs = (tuple(_name(field.raw) for field in found.get(number, ())) for number in (1, 2))
    attributes = dict([_same_in_layers(_attribute, field.raw) for field in found.get(5, ())])
    if len(inputs) > _MAX_LISTED or len(outputs) > _MAX_LISTED or len(attributes) != len(found.get(5, ())):
        raise ValueError(f"{kind}: too many inputs, outputs or attributes")
    return Node(f"{domain}:{kind}" if domain else kind, inputs, outputs, attributes)


def _attribute(raw: bytes) -> tuple[str, Attribute]:
    found = _by_number(raw, "attribute", once={1: DELIMITED, 2: FIXED32, 3: VARINT, 20: VARINT}, many={8})
    name, kind = _text(found.get(1, ())), found[20][0].value if 20 in found else 0
    if found.keys() - {1, 20} == {2} and kind == 1:
        value = struct.unpack("<f", found[2][0].raw)[0]
        if not math.isfinite(value):
            raise ValueError(f"attribute {name}: expected a finite number")
        return name, float(value)
    if found.keys() - {1, 20} == {3} and kind == 2:
        return name, found[3][0].value
    if found.keys() - {1, 20} == {8} and kind == 7:
        return name, _ints(found[8])
    raise ValueError(f"attribute {name}: expected a number or numbers")


def _tensor(raw: bytes) -> tuple[str, Tensor]:
    found = _by_number(raw, "tensor", once={2: VARINT, 8: DELIMITED, 9: DELIMITED, 14: VARINT}, many={1, 13})
    name, dims, kind = _text(found.get(8, ())), _ints(found.get(1, ())), found[2][0].value if 2 in found else 0
    if kind not in _ITEM_BYTES or len(dims) > _MAX_RANK or not all(0 < dim < _MAX_DIM for dim in dims):
        raise ValueError(f"tensor {name}: expected float32, int64 or uint8 and a shape, got type {kind} of {dims}")
    size = _ITEM_BYTES[kind] * math.prod(dims)
    inside = found[9][0].raw if 9 in found else b""
    region = _region(name, found.get(13, ())) if 13 in found else None
    is_outside = (found[14][0].value if 14 in found else 0) == 1
    if is_outside != (region is not None) or (is_outside and inside):
        raise ValueError(f"tensor {name}: expected its bytes inside the graph or outside")
    length = len(inside) if region is None else region.length
    if length != size:
        raise ValueError(f"tensor {name}: expected {size} bytes for {list(dims)}, got {length}")
    ints = tuple(struct.unpack(f"<{len(inside) // 8}q", inside)) if kind == INT64 and size <= 8 * _MAX_LISTED else None
    return name, Tensor(kind, dims, region, ints, inside)


def _region(name: str, entries: Iterable[Field]) -> Region:
    """Where a tensor lies. The entries must be written as the exporter writes them."""
    pairs = [fields(entry.raw) for entry in entries]
    if any([(f.number, f.kind) for f in pair] != [(1, DELIMITED), (2, DELIMITED)] for pair in pairs):
        raise ValueError(f"tensor {name}: external data: an entry holds more than a key and a value")
    if [pair[0].raw for pair in pairs] != [b"location", b"offset", b"length"]:
        raise ValueError(f"tensor {name}: external data: expected location, offset and length")
    location, offset, length = (_name(pair[1].raw) for pair in pairs)
    if not all(v.isascii() and v.isdecimal() and len(v) < 16 for v in (offset, length)):
        raise ValueError(f"tensor {name}: external data: expected whole numbers")
    return Region(location, int(offset), int(length))


def _declared(raw: bytes) -> Declared:
    found = _by_number(raw, "input or output", once={1: DELIMITED, 2: DELIMITED}, many=set())
    kind = _by_number(_only(found, 2, "type"), "type", once={1: DELIMITED}, many=set())
    tensor = _by_number(_only(kind, 1, "tensor type"), "tensor type", once={1: VARINT, 2: DELIMITED}, many=set())
    shape = _by_number(_only(tensor, 2, "shape"), "shape", once={}, many={1})
    dims: list[int | str] = []
    for field in shape.get(1, ()):
        dim = _by_number(field.raw, "dim", once={1: VARINT, 2: DELIMITED}, many=set())
        dims.append(dim[1][0].value if 1 in dim else _text(dim.get(2, ())))
    if len(dims) > _MAX_RANK:
        raise ValueError(f"at most {_MAX_RANK} dims")
    return Declared(_text(found.get(1, ())), tensor[1][0].value if 1 in tensor else 0, tuple(dims))


def _same_in_layers(read: Callable[[bytes], T], raw: bytes) -> T:
    """Read what the graphs of a model's layers share byte for byte, once; what is long is not kept."""
    return _read_once(read, raw) if len(raw) < _MAX_NAME else read(raw)  # type: ignore[return-value]


@lru_cache(maxsize=256)
def _read_once(read: Callable[[bytes], object], raw: bytes) -> object:
    return read(raw)


def _by_number(raw: bytes, what: str, *, once: Mapping[int, int], many: set[int]) -> dict[int, list[Field]]:
    """Sort a message's fields; `once` has the wire type of those that may be there once, `many` of any number."""
    found: dict[int, list[Field]] = {}
    for field in fields(raw):
        number, kind, _, _ = field
        if number not in found and (once.get(number) == kind or number in many):
            found[number] = [field]
        elif number in many:
            found[number].append(field)
        else:
            raise ValueError(f"{what}: field {number} is one that the exporter does not write, or is there twice")
    return found


def _only(found: Mapping[int, list[Field]], number: int, what: str) -> bytes:
    if number not in found:
        raise ValueError(f"{what} is missing")
    return found[number][0].raw


def _ints(listed: Iterable[Field]) -> tuple[int, ...]:
    values = tuple(value for field in listed for value in numbers(field))
    if len(values) > _MAX_LISTED:
        raise ValueError(f"at most {_MAX_LISTED} numbers in a list")
    return values


def _text(found: Iterable[Field]) -> str:
    return next((_name(field.raw) for field in found), "")


def _name(raw: bytes) -> str:
    if len(raw) > _MAX_NAME:
        raise ValueError(f"names of at most {_MAX_NAME} bytes")
    return raw.decode("utf-8")
