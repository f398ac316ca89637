"""A checkpoint folder: which tensors it has, and reading ranges of their rows into new memory.

Nothing is memory-mapped: mapped pages count as resident memory, and the exporter promises a ceiling on that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import BundleError, ConfigError
from hobbit_export.byte_files import ByteFiles, LocalFiles
from hobbit_export.safetensors import TensorInfo, read_header
from hobbit_export.shards import compare_with_index, no_folder, weight_files

_SAMPLE_BYTES, _SAMPLE_EVERY_BYTES = 4 << 10, 4 << 20
RAW_DTYPES: dict[str, tuple[str, type[np.generic]]] = {
    "F32": ("f32", np.float32), "F16": ("f16", np.float16), "BF16": ("bf16", np.uint16),
}  # fmt: skip
"""safetensors type -> (encoder's name, numpy type of the raw bytes). bfloat16 travels as uint16."""
NUMPY_DTYPES: dict[str, type[np.generic]] = {
    **{name: raw for name, (_, raw) in RAW_DTYPES.items()}, "F64": np.float64, "BOOL": np.bool_,
    "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32, "I32": np.int32,
    "U64": np.uint64, "I64": np.int64, "F8_E4M3": np.uint8, "F8_E5M2": np.uint8, "F8_E8M0": np.uint8,
}  # fmt: skip
"""safetensors type -> numpy type of the raw bytes; numbers of 8 bits with an exponent travel as uint8."""
_SLAB_BYTES = 256 << 10
_SHORT_ROW_BYTES, _WIDE = 4 << 10, 4
"""Whole rows are read for a block of columns where rows are short or the block is at least a quarter of them."""


@dataclass
class Checkpoint:
    """Open checkpoint. `tensors` is complete and checked; data is read on demand."""

    path: Path
    tensors: dict[str, TensorInfo]
    source: ByteFiles

    @staticmethod
    def open(path: Path, files: ByteFiles | None = None) -> Checkpoint:
        """Read all headers of a folder.

        Args:
            path: the folder.
            files: where its weight files are, if not in it.

        Raises:
            ConfigError: not a folder, or no safetensors in it.
            BundleError: a header or the index lies; the file and tensor are named.
        """
        if not path.is_dir():
            raise ConfigError(no_folder(path))
        files = LocalFiles(path) if files is None else files
        try:
            return Checkpoint(path, _read_headers(path, files), files)
        except BaseException:
            files.close()
            raise

    @property
    def files(self) -> list[Path]:
        """Weight files, sorted by name."""
        return sorted({t.file for t in self.tensors.values()})

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.num_bytes for t in self.tensors.values())

    def raw_rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Read rows of a tensor seen as a matrix (all dimensions but the last flattened).

        Returns:
            [stop - start, cols] in the tensor's own type (bfloat16 as uint16), in memory owned by the caller.

        Raises:
            BundleError: the file ended early.
        """
        return self.rows_of(self.tensors[name], start, stop)

    def rows_of(self, info: TensorInfo, start: int, stop: int) -> NDArray[Any]:
        """Read rows as `raw_rows` does, of a tensor that may be seen in another shape than it is stored in."""
        out = np.empty((stop - start, info.cols), NUMPY_DTYPES[info.dtype])
        row_bytes = info.cols * out.itemsize
        self._read_into(info, out.reshape(-1).view(np.uint8).data, start * row_bytes)
        return out

    def raw_block(self, name: str, rows: slice, columns: slice) -> NDArray[Any]:
        """Read some columns of some rows (both from start to stop), otherwise as `raw_rows`.

        Raises:
            BundleError: the file ended early.
        """
        info = self.tensors[name]
        out = np.empty((rows.stop - rows.start, columns.stop - columns.start), NUMPY_DTYPES[info.dtype])
        row_bytes = info.cols * out.itemsize
        if row_bytes <= _SHORT_ROW_BYTES or out.shape[1] * _WIDE >= info.cols:
            step = max(1, _SLAB_BYTES // max(1, row_bytes))
            for at in range(rows.start, rows.stop, step):
                until = min(at + step, rows.stop)
                out[at - rows.start : until - rows.start] = self.raw_rows(name, at, until)[:, columns]
        else:
            first = columns.start * out.itemsize
            for i, row in enumerate(out):
                self._read_into(info, row.view(np.uint8).data, (rows.start + i) * row_bytes + first)
        return out

    def samples(self) -> Iterator[bytes]:
        """Yield of every tensor, in order of names: JSON of name, type and shape, then samples of its bytes.

        The first 4 KiB of every 4 MiB count, so that about a thousandth of a large checkpoint is read; other training
        changes nearly every weight. How tensors are spread over files does not matter.
        """
        tensors = sorted(self.tensors.items())
        starts = [range(0, info.num_bytes, _SAMPLE_EVERY_BYTES) for _, info in tensors]
        samples = self.source.read_many(
            (info.file.name, info.offset + start, min(_SAMPLE_BYTES, info.num_bytes - start))
            for (_, info), of_tensor in zip(tensors, starts, strict=True)
            for start in of_tensor
        )
        for (name, info), of_tensor in zip(tensors, starts, strict=True):
            yield json.dumps([name, info.dtype, info.shape]).encode()
            for start in of_tensor:
                sample = next(samples)
                if len(sample) < min(_SAMPLE_BYTES, info.num_bytes - start):
                    raise _ended_early(info)
                yield sample

    def raw_bytes(self, name: str, start: int, size: int) -> bytes:
        """Read bytes of a tensor of any type.

        Raises:
            BundleError: the file ended early.
        """
        out = bytearray(size)
        self._read_into(self.tensors[name], memoryview(out), start)
        return bytes(out)

    def rows_f32(self, name: str, start: int, stop: int) -> F32:
        """Read rows as float32 [stop - start, cols]."""
        return to_f32(self.raw_rows(name, start, stop))

    def tensor_f32(self, name: str) -> F32:
        """Read a whole tensor as float32 in its own shape."""
        info = self.tensors[name]
        return self.rows_f32(name, 0, info.rows).reshape(info.shape)

    def _read_into(self, info: TensorInfo, buffer: memoryview, offset: int) -> None:
        if self.source.read_into(info.file.name, info.offset + offset, buffer) < len(buffer):
            raise _ended_early(info)

    def close(self) -> None:
        """Close all files."""
        self.source.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _ended_early(info: TensorInfo) -> BundleError:
    return BundleError(
        f"{info.file.name}: tensor {info.name!r}: the file ended early (changed while exporting?). "
        "Do not write to the checkpoint during an export; run the export again."
    )


def to_f32(raw: NDArray[Any]) -> F32:
    """Widen raw rows to float32, exactly; uint16 is read as bfloat16. float32 passes through."""
    if raw.dtype == np.uint16:
        wide = raw.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return raw.astype(np.float32, copy=False)


def is_finite(raw: NDArray[Any]) -> bool:
    """Whether no element is infinite or not a number; needs at most as much memory again as `raw`."""
    if raw.dtype == np.uint16:
        # not finite: from 0x7F80 among the positive, which are those of a signed view, and from 0xFF80 among the others
        return not raw.size or (int(raw.max()) < 0xFF80 and int(raw.view(np.int16).max()) < 0x7F80)
    return bool(np.isfinite(raw).all())


def _read_headers(path: Path, files: ByteFiles) -> dict[str, TensorInfo]:
    """Return all tensors of a folder's weight files, held against the index."""
    tensors: dict[str, TensorInfo] = {}
    names, weight_map = weight_files(files)
    for file in names:
        for name, info in read_header(path / file, files).items():
            if name in tensors:
                raise BundleError(f"{file}: tensor {name!r}: is also in {tensors[name].file.name}. Remove one of them.")
            tensors[name] = info
    compare_with_index(tensors, weight_map)
    return tensors
