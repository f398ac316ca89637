"""A checkpoint folder: which tensors it has, and reading ranges of their rows into new memory.

Nothing is memory-mapped: mapped pages count as resident memory, and the exporter promises a ceiling on that.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.errors import BundleError, ConfigError
from hobbit_export.safetensors import TensorInfo, read_header

_LOG = logging.getLogger(__name__)
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_MAX_JSON_BYTES = 64 << 20
_GGUF = "GGUF files are not read. Give the safetensors checkpoint that the file was made from."
RAW_DTYPES: dict[str, tuple[str, type[np.generic]]] = {
    "F32": ("f32", np.float32), "F16": ("f16", np.float16), "BF16": ("bf16", np.uint16),
}  # fmt: skip
"""safetensors type -> (encoder's name, numpy type of the raw bytes). bfloat16 travels as uint16."""


@dataclass
class Checkpoint:
    """Open checkpoint. `tensors` is complete and checked; data is read on demand."""

    path: Path
    tensors: dict[str, TensorInfo]
    _files: dict[Path, int] = field(default_factory=dict)

    @staticmethod
    def open(path: Path) -> Checkpoint:
        """Read all headers of a folder.

        Raises:
            ConfigError: not a folder, or no safetensors in it.
            BundleError: a header or the index lies; the file and tensor are named.
        """
        if not path.is_dir():
            raise ConfigError(no_folder(path))
        tensors: dict[str, TensorInfo] = {}
        weight_map = {} if _has_whole_file(path) else _read_index(path)
        for file in sorted(set(weight_map.values())) if weight_map else [_single_file(path)]:
            for name, info in read_header(path / file).items():
                if name in tensors:
                    raise BundleError(
                        f"{file}: tensor {name!r}: is also in {tensors[name].file.name}. Remove one of them."
                    )
                tensors[name] = info
        _compare_with_index(tensors, weight_map)
        return Checkpoint(path, tensors)

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
        info = self.tensors[name]
        out = np.empty((stop - start, info.cols), RAW_DTYPES[info.dtype][1])
        row_bytes = info.cols * out.itemsize
        self._read_into(info, out.reshape(-1).view(np.uint8).data, start * row_bytes)
        return out

    def raw_bytes(self, name: str, start: int, size: int) -> bytes:
        """Read bytes of a tensor of any type.

        Raises:
            BundleError: the file ended early.
        """
        out = bytearray(size)
        self._read_into(self.tensors[name], memoryview(out), start)
        return bytes(out)

    def rows_f32(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Read rows as float32 [stop - start, cols]."""
        return to_f32(self.raw_rows(name, start, stop))

    def tensor_f32(self, name: str) -> NDArray[np.float32]:
        """Read a whole tensor as float32 in its own shape."""
        info = self.tensors[name]
        return self.rows_f32(name, 0, info.rows).reshape(info.shape)

    def _read_into(self, info: TensorInfo, buffer: memoryview, offset: int) -> None:
        descriptor = self._files.get(info.file)
        if descriptor is None:
            descriptor = self._files[info.file] = os.open(info.file, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        done = 0
        while done < len(buffer):
            got = os.preadv(descriptor, [buffer[done:]], info.offset + offset + done)
            if got <= 0:
                raise BundleError(
                    f"{info.file.name}: tensor {info.name!r}: the file ended early (changed while exporting?). "
                    "Do not write to the checkpoint during an export; run the export again."
                )
            done += got

    def close(self) -> None:
        """Close all files."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def no_folder(path: Path) -> str:
    """Say what to do where no checkpoint folder is."""
    if path.suffix == ".gguf":
        return f"{path}: {_GGUF}"
    found = "a file" if path.exists() else "nothing"
    text = f"{path}: expected a checkpoint folder with config.json and safetensors, found {found}."
    if not path.exists() and not path.is_absolute() and len(path.parts) == 2:
        text += f" If it is a name on the Hugging Face Hub: hf download {path} --local-dir {path.name}"
    return text


def to_f32(raw: NDArray[Any]) -> NDArray[np.float32]:
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


def read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON object.

    Raises:
        BundleError: missing, oversized, not JSON, or not an object.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(_MAX_JSON_BYTES + 1)
    except OSError as err:
        raise BundleError(
            f"{path.name}: cannot be read: {err.strerror}. Is {path.parent} a complete checkpoint?"
        ) from err
    if len(raw) > _MAX_JSON_BYTES:
        raise BundleError(f"{path.name}: expected at most {_MAX_JSON_BYTES} bytes, got more.")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as err:
        raise BundleError(f"{path.name}: expected JSON, got {err}. Download the file again.") from err
    if not isinstance(data, dict):
        raise BundleError(f"{path.name}: expected an object, got {type(data).__name__}. Download the file again.")
    return data


def _has_whole_file(path: Path) -> bool:
    """Whether one file holds the whole model.

    It is used even where an index lies beside it, as transformers does: the index is then left over from shards that
    were merged or replaced, and following it could export old weights.
    """
    if not (path / WHOLE).exists():
        return False
    if (path / INDEX).exists():
        _LOG.warning("%s: %s is read; %s beside it is ignored, as transformers ignores it.", path, WHOLE, INDEX)
    return True


def _read_index(path: Path) -> dict[str, str]:
    if not (path / INDEX).exists():
        return {}
    weight_map = read_json(path / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BundleError(f"{INDEX}: weight_map: expected a non-empty object. Download the file again.")
    for name, file in weight_map.items():
        plain = isinstance(file, str) and file == Path(file).name and file not in {"", ".", ".."} and "\0" not in file
        if not plain:
            raise BundleError(f"{INDEX}: tensor {name[:120]!r}: expected a file in the folder, got {str(file)[:80]!r}.")
        if not (path / file).is_file():
            raise BundleError(
                f"{INDEX}: tensor {name[:120]!r}: file {file!r} is missing. Download the checkpoint again."
            )
    return weight_map


def _single_file(path: Path) -> str:
    if (path / WHOLE).exists():
        return WHOLE
    found = sorted(p.name for p in path.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"{path}: expected {INDEX} beside {len(found)} safetensors files, found none. Download it.")
    if any(path.glob("*.gguf")):
        raise ConfigError(f"{path}: {_GGUF}")
    pickles = sorted(p.name for p in path.glob("*.bin"))
    hint = f" {pickles[0]} is a pickle, which is never loaded: convert it with save_pretrained." if pickles else ""
    hint = hint or " The weights are missing: download the whole checkpoint, not its configuration alone."
    raise ConfigError(f"{path}: expected model.safetensors or {INDEX}, found neither.{hint}")


def _compare_with_index(tensors: dict[str, TensorInfo], weight_map: dict[str, str]) -> None:
    for name, file in weight_map.items():
        if name not in tensors or tensors[name].file.name != file:
            raise BundleError(
                f"{file}: tensor {name[:120]!r}: listed in {INDEX}, but not in the file. Download both again."
            )
    extra = sorted(set(tensors) - set(weight_map)) if weight_map else []
    if extra:
        file = tensors[extra[0]].file.name
        raise BundleError(f"{file}: tensor {extra[0][:120]!r}: in the file, but not in {INDEX}. Download both again.")
