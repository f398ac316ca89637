"""Header of a safetensors file, untrusted input: parse it and check every claim. Tensor data is not touched."""

from __future__ import annotations

import json
import math
import struct
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import BundleError
from hobbit_export.byte_files import ByteFiles, LocalFiles
from hobbit_export.ceiling import json_bytes, need_memory

MAX_HEADER_BYTES = 16 << 20
"""Real shards stay below 4 MiB."""

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies.

    Attributes:
        offset: first byte, from the start of the file.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int

    @property
    def cols(self) -> int:
        """Length of the last dimension (1 for a scalar)."""
        return self.shape[-1] if self.shape else 1

    @property
    def rows(self) -> int:
        """Product of all dimensions but the last: the tensor seen as a matrix."""
        return math.prod(self.shape[:-1])


def read_header(path: Path, files: ByteFiles | None = None) -> dict[str, TensorInfo]:
    """Return every tensor a file lists, by name.

    Args:
        path: of the file.
        files: where its bytes are, if not in its folder.

    Raises:
        BundleError: names the file (and the tensor) whose claim is false.
        BudgetError: the header might not fit under the ceiling.
    """
    if files is None:
        with closing(LocalFiles(path.parent)) as own:
            return read_header(path, own)
    prefix = bytearray(8)
    try:
        size = files.size(path.name)
        if files.read_into(path.name, 0, memoryview(prefix)) < 8:
            raise BundleError(f"{path.name}: expected a safetensors file, got {size} bytes (truncated). {_FIX}")
        (length,) = struct.unpack("<Q", prefix)
        limit = min(size - 8, MAX_HEADER_BYTES)
        if length > limit:
            raise BundleError(f"{path.name}: header: expected at most {limit} bytes, got {length}. {_FIX}")
        need_memory(length, f"{path.name}: header")
        raw = bytearray(length)
        del raw[files.read_into(path.name, 8, memoryview(raw)) :]
    except OSError as err:
        raise BundleError(f"{path.name}: cannot be read: {err.strerror}. {_FIX}") from err
    need_memory(json_bytes(raw), f"{path.name}: header")
    tensors = _parse(raw, path, size - 8 - length, 8 + length)
    _check_coverage(tensors, path, 8 + length, size)
    return {t.name: t for t in tensors}


_FIX = "Download the checkpoint again."


def _parse(raw: bytes | bytearray, path: Path, data_bytes: int, data_start: int) -> list[TensorInfo]:
    try:
        header = json.loads(raw, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as err:
        raise BundleError(f"{path.name}: header: expected JSON without repeated names, got {err}. {_FIX}") from err
    if not isinstance(header, dict):
        raise BundleError(f"{path.name}: header: expected an object, got {type(header).__name__}. {_FIX}")
    entries = ((name, value) for name, value in header.items() if name != "__metadata__")
    return [_tensor(name, value, path, data_bytes, data_start) for name, value in entries]


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        name = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise ValueError(f"name {name[:80]!r} listed twice")
    return result


def _tensor(name: str, value: Any, path: Path, data_bytes: int, data_start: int) -> TensorInfo:
    where = f"{path.name}: tensor {name[:120]!r}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise BundleError(f"{where}: expected dtype, shape and data_offsets, got {str(value)[:80]}. {_FIX}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise BundleError(f"{where}: dtype: expected a safetensors type, got {str(dtype)[:40]!r}. {_FIX}")
    if not _is_ints(shape) or len(shape) > 8 or any(n > 1 << 40 for n in shape):
        raise BundleError(f"{where}: shape: expected a list of sizes, got {str(shape)[:80]}. {_FIX}")
    if not _is_ints(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= data_bytes:
        raise BundleError(
            f"{where}: data_offsets: expected a range inside {data_bytes} bytes, got {str(offsets)[:80]}. {_FIX}"
        )
    need = math.prod(shape) * DTYPE_BYTES[dtype]
    if offsets[1] - offsets[0] != need:
        got = offsets[1] - offsets[0]
        raise BundleError(f"{where}: expected {need} bytes for {dtype} {shape}, got {got}. {_FIX}")
    return TensorInfo(name, path, dtype, tuple(shape), data_start + offsets[0], need)


def _is_ints(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in value)


def _check_coverage(tensors: list[TensorInfo], path: Path, start: int, size: int) -> None:
    """The tensors must tile the data exactly: no overlap, no hole, nothing after the last."""
    at = start
    for t in sorted(tensors, key=lambda t: (t.offset, t.num_bytes)):
        if t.offset != at:
            what = "overlaps the tensor before it" if t.offset < at else "leaves a hole before it"
            raise BundleError(f"{path.name}: tensor {t.name[:120]!r}: {what}. {_FIX}")
        at += t.num_bytes
    if at != size:
        raise BundleError(f"{path.name}: expected {at} bytes, got {size}. {_FIX}")
