"""Where a graph says its weights lie: beside it, in the one file of the format, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from edge_runtime.base.errors import BundleError

# fields of ModelProto, GraphProto, TensorProto and StringStringEntryProto
_GRAPH, _INITIALIZER, _NAME, _EXTERNAL, _KEY, _VALUE = 7, 5, 8, 13, 1, 2
_LENGTH_DELIMITED = 2
_KEYS = [b"location", b"offset", b"length"]


class Region(NamedTuple):
    """Where a matrix lies in the data file, in bytes."""

    offset: int
    length: int


def check_external_data(part: str, graph: bytes, data_file: str) -> dict[str, Region]:
    """Refuse a graph whose external data is anywhere but in `data_file` beside it; return where each matrix lies.

    Old releases of ONNX Runtime follow ``../`` in such a location. Every initializer's entries must be the ones that
    the exporter writes, and the word "location" may stand nowhere else: not in a subgraph, a function, an attribute or
    a field given twice, of which a protocol buffer keeps the last.

    Args:
        part: name of the graph, for the error.
        graph: the file's bytes.
        data_file: the only file name allowed.

    Returns:
        The region of every initializer with external data, by the initializer's name. Whether it lies inside the file
        is not checked.

    Raises:
        BundleError: another location, or one written in a way we do not write it.
    """
    try:
        found = list(_external(graph))
        regions = {name.decode(): Region(int(offset), int(length)) for name, (_, offset, length) in found}
        locations = [values[0] for _, values in found]
    except ValueError:
        regions, locations = {}, [b""]
    if set(locations) - {data_file.encode()} or len(locations) != graph.count(_KEYS[0]):
        raise BundleError(
            f"{part}: external data: expected {data_file!r} beside the graph, got something else. "
            "Export the bundle again."
        )
    return regions


def _external(model: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield name, and location, offset and length, of every initializer with external data.

    Raises:
        ValueError: they are written in another way than ours, or the bytes are no protocol buffer.
    """
    for graph in _values(model, _GRAPH):
        for tensor in _values(graph, _INITIALIZER):
            entries = [list(_fields(entry)) for entry in _values(tensor, _EXTERNAL)]
            if not entries:
                continue
            if any([number for number, _ in fields] != [_KEY, _VALUE] for fields in entries):
                raise ValueError("an entry holds more than a key and a value")
            if [fields[0][1] for fields in entries] != _KEYS:
                raise ValueError("other entries than ours")
            yield next(_values(tensor, _NAME), b""), [fields[1][1] for fields in entries]


def _values(message: bytes, number: int) -> Iterator[bytes]:
    return (value for found, value in _fields(message) if found == number)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of every field, in order; the content of numbers is left out.

    Raises:
        ValueError: damaged, or a tag or length in an unusual encoding, which decoders need not agree on.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind, size = tag & 7, 0
        if kind == _LENGTH_DELIMITED:
            size, at = _varint(message, at)
        elif kind == 0:
            at = _end_of_number(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if tag >> 3 == 0 or at + size > len(message):
            raise ValueError("a field runs past its message, or has no number")
        yield tag >> 3, message[at : at + size] if kind == _LENGTH_DELIMITED else b""
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Value of a tag or length and where the next byte lies; only the shortest encoding of below 2^31 will do."""
    end = _end_of_number(message, at)
    value = sum((byte & 127) << (7 * i) for i, byte in enumerate(message[at:end]))
    if value >= 1 << 31 or (end - at > 1 and message[end - 1] == 0):
        raise ValueError("a tag or length in an unusual encoding")
    return value, end


def _end_of_number(message: bytes, at: int) -> int:
    for end in range(at, min(at + 10, len(message))):
        if message[end] < 128:
            return end + 1
    raise ValueError("a number runs past its message")
