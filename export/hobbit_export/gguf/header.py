"""Header of a GGUF file, untrusted input: parse it and check every claim. Tensor data is not touched.

Written from the description of the format (version 3; version 2 differs in nothing that is read here). The `gguf`
package maps a file and believes its header, so it never sees one; see docs/adr/0098.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.base.errors import BundleError
from hobbit_export.byte_files import ByteFiles
from hobbit_export.ceiling import need_memory
from hobbit_export.gguf.beginning import Opener, Readable, opener
from hobbit_export.gguf.cursor import FIX, Cursor
from hobbit_export.gguf.metadata import Metadata, MetadataReader
from hobbit_export.gguf.types import TYPES
from hobbit_export.safetensors import TensorInfo

MAGIC, VERSIONS = b"GGUF", (2, 3)
MAX_HEADER_BYTES = 256 << 20
"""Real ones stay below 32 MiB, nearly all of it the vocabulary."""
MAX_TENSORS, MAX_KEYS = 1 << 16, 1 << 12
_TENSOR_BYTES = 1 << 10
"""Of a tensor's objects."""
_MAX_NAME_BYTES, _MAX_DIMENSIONS = 64, 4
_MAX_SIZE, _MAX_WEIGHTS = 1 << 32, 1 << 48
_MAX_ALIGNMENT, _ALIGNMENT = 1 << 20, 32


@dataclass(frozen=True)
class Header:
    """What one file says of itself.

    Attributes:
        num_bytes: of the header, up to the first tensor.
    """

    metadata: Metadata
    tensors: dict[str, TensorInfo]
    num_bytes: int


def read_header(path: Path, files: ByteFiles | None = None) -> Header:
    """Read the header of a file.

    Args:
        path: of the file.
        files: where its bytes are, if not there.

    Raises:
        BundleError: names the file (and the key or tensor) whose claim is false.
    """
    try:
        size, opened = opener(path, files)
        with opened() as file:
            return _read(file, path, size, opened)
    except OSError as err:
        raise BundleError(f"{path.name}: cannot be read: {err.strerror}. {FIX}") from err


def _read(file: Readable, path: Path, size: int, opened: Opener) -> Header:
    cursor = Cursor(file, path.name, min(size, MAX_HEADER_BYTES))
    _check_version(cursor, size)
    num_tensors, num_keys = cursor.u64("number of tensors"), cursor.u64("number of keys")
    for what, count, most in (("tensors", num_tensors, MAX_TENSORS), ("keys", num_keys, MAX_KEYS)):
        if count > most:
            raise BundleError(f"{path.name}: expected at most {most} {what}, got {count}. {FIX}")
    need_memory(_TENSOR_BYTES * num_tensors, f"{path.name}: {num_tensors} tensors")
    metadata = Metadata(path, MetadataReader(cursor).read(num_keys), opened)
    entries = [_entry(cursor, f"tensor {i + 1} of {num_tensors}") for i in range(num_tensors)]
    alignment = _alignment(metadata)
    start = -(-cursor.at // alignment) * alignment
    tensors = _placed(entries, path, start, alignment)
    _check_coverage(list(tensors.values()), path, start, size, alignment)
    return Header(metadata, tensors, cursor.at)


def _check_version(cursor: Cursor, size: int) -> None:
    where = cursor.where
    if size < 24 or (found := cursor.take(4, "magic")) != MAGIC:
        got = f"{size} bytes (truncated)" if size < 24 else repr(found)
        raise BundleError(f"{where}: expected a GGUF file, got {got}. {FIX}")
    version = cursor.u32("version")
    if version in VERSIONS:
        return
    if version in (1 << 24, 2 << 24, 3 << 24):
        raise BundleError(f"{where}: is big-endian, which is not read. Convert the model for a little-endian machine.")
    raise BundleError(f"{where}: expected version 2 or 3 of GGUF, got {version}. Convert the model again.")


def _alignment(metadata: Metadata) -> int:
    value = metadata.count("general.alignment")
    value = _ALIGNMENT if value is None else value
    if not 1 <= value <= _MAX_ALIGNMENT or value & (value - 1):
        raise BundleError(
            f"{metadata.file.name}: general.alignment: expected a power of two up to {_MAX_ALIGNMENT}, got {value}. "
            f"{FIX}"
        )
    return value


def _entry(cursor: Cursor, where: str) -> tuple[str, int, tuple[int, ...], int]:
    """Read a tensor's name, type, shape (the last dimension is contiguous) and offset from the first tensor."""
    name = cursor.string(where, _MAX_NAME_BYTES)
    where = f"tensor {name!r}"
    num_dimensions = cursor.u32(where)
    if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
        raise BundleError(
            f"{cursor.where}: {where}: expected 1 to {_MAX_DIMENSIONS} dimensions, got {num_dimensions}. {FIX}"
        )
    shape = tuple(cursor.u64(where) for _ in range(num_dimensions))[::-1]
    if any(not 1 <= n <= _MAX_SIZE for n in shape) or math.prod(shape) > _MAX_WEIGHTS:
        raise BundleError(f"{cursor.where}: {where}: expected possible sizes, got {list(shape)}. {FIX}")
    return name, cursor.u32(where), shape, cursor.u64(where)


def _placed(
    entries: list[tuple[str, int, tuple[int, ...], int]], path: Path, start: int, alignment: int
) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for name, number, shape, offset in entries:
        where = f"{path.name}: tensor {name!r}"
        if name in tensors:
            raise BundleError(f"{where}: is there twice. {FIX}")
        if number not in TYPES:
            raise BundleError(f"{where}: expected a type of GGUF, got {number}. {FIX}")
        kind = TYPES[number]
        if shape[-1] % kind.weights:
            raise BundleError(
                f"{where}: expected rows of whole blocks of {kind.weights} ({kind.name}), got {shape[-1]}. {FIX}"
            )
        if offset % alignment:
            raise BundleError(f"{where}: expected an offset that is a multiple of {alignment}, got {offset}. {FIX}")
        num_bytes = math.prod(shape) // kind.weights * kind.num_bytes
        tensors[name] = TensorInfo(name, path, kind.name, shape, start + offset, num_bytes)
    return tensors


def _check_coverage(tensors: list[TensorInfo], path: Path, start: int, size: int, alignment: int) -> None:
    """The tensors must tile the data, each filled up to the alignment: no overlap, no hole, nothing after the last."""
    at = end = start
    for t in sorted(tensors, key=lambda t: t.offset):
        if t.offset != at:
            what = "overlaps the tensor before it" if t.offset < at else "leaves a hole before it"
            raise BundleError(f"{path.name}: tensor {t.name!r}: {what}. {FIX}")
        end = at + t.num_bytes
        at = -(-end // alignment) * alignment
        if end > size:
            raise BundleError(
                f"{path.name}: tensor {t.name!r}: expected {t.num_bytes} bytes at {t.offset}, but the file has {size}. "
                f"{FIX}"
            )
    if tensors and not end <= size <= at:
        raise BundleError(f"{path.name}: expected {at} bytes, got {size}. {FIX}")
