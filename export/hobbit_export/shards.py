"""Which files of a folder hold its weights: one file, or shards with an index, untrusted input."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import BundleError, ConfigError
from hobbit_export.byte_files import ByteFiles
from hobbit_export.ceiling import json_bytes, need_memory
from hobbit_export.safetensors import TensorInfo

_LOG = logging.getLogger(__name__)
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_MAX_JSON_BYTES = 64 << 20
_MOST_TOTAL_BYTES = 1 << 50


def weight_files(files: ByteFiles) -> tuple[list[str], dict[str, str]]:
    """Return the names of the safetensors files of a model, and the index: tensor -> file, {} where one file is all.

    Raises:
        ConfigError: there are none, or several without an index.
        BundleError: the index lies.
    """
    weight_map, _ = read_index(files)
    return (sorted(set(weight_map.values())) if weight_map else [_single_file(files.folder, files.names())]), weight_map


def read_index(files: ByteFiles) -> tuple[dict[str, str], int | None]:
    """Return the index, tensor -> file, and the bytes it states of all tensors; {} and None where one file is all.

    Raises:
        BundleError: the index lies.
    """
    present = files.names()
    if INDEX not in present or _has_whole_file(files.folder, present):
        return {}, None
    index = read_json(files.folder / INDEX)
    metadata = index.get("metadata")
    stated = metadata.get("total_size") if isinstance(metadata, dict) else None
    total = int(stated) if isinstance(stated, int | float) and 1 <= stated <= _MOST_TOTAL_BYTES else None
    return _weight_map(index, present), total


def no_folder(path: Path) -> str:
    """Say what to do where no checkpoint folder is."""
    found = "a file" if path.exists() else "nothing"
    return f"{path}: expected a checkpoint folder with config.json and safetensors, found {found}."


def read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON object; ``{"__float__": "Infinity"}``, as transformers saves such a number, is the number.

    Raises:
        BundleError: missing, oversized, not JSON, or not an object.
        BudgetError: it might not fit under the ceiling.
    """
    try:
        with open(path, "rb") as file:
            need_memory(min(os.fstat(file.fileno()).st_size, _MAX_JSON_BYTES), path.name)
            raw = file.read(_MAX_JSON_BYTES + 1)
    except OSError as err:
        raise BundleError(
            f"{path.name}: cannot be read: {err.strerror}. Is {path.parent} a complete checkpoint?"
        ) from err
    if len(raw) > _MAX_JSON_BYTES:
        raise BundleError(f"{path.name}: expected at most {_MAX_JSON_BYTES} bytes, got more.")
    need_memory(json_bytes(raw), path.name)
    try:
        data = json.loads(raw, object_hook=_float_by_name)
    except (ValueError, RecursionError) as err:
        raise BundleError(f"{path.name}: expected JSON, got {err}. Download the file again.") from err
    if not isinstance(data, dict):
        raise BundleError(f"{path.name}: expected an object, got {type(data).__name__}. Download the file again.")
    return data


def _float_by_name(value: dict[str, Any]) -> Any:
    named = value.get("__float__")
    return float(named) if len(value) == 1 and named in ("Infinity", "-Infinity", "NaN") else value


def _has_whole_file(path: Path, present: set[str]) -> bool:
    """Whether one file holds the whole model.

    It is used even where an index lies beside it, as transformers does: the index is then left over from shards that
    were merged or replaced, and following it could export old weights.
    """
    if WHOLE not in present:
        return False
    if INDEX in present:
        _LOG.warning("%s: %s is read; %s beside it is ignored, as transformers ignores it.", path, WHOLE, INDEX)
    return True


def _weight_map(index: dict[str, Any], present: set[str]) -> dict[str, str]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BundleError(f"{INDEX}: weight_map: expected a non-empty object. Download the file again.")
    for name, file in weight_map.items():
        plain = isinstance(file, str) and file == Path(file).name and file not in {"", ".", ".."} and "\0" not in file
        if not plain:
            raise BundleError(f"{INDEX}: tensor {name[:120]!r}: expected a file in the folder, got {str(file)[:80]!r}.")
        if file not in present:
            raise BundleError(
                f"{INDEX}: tensor {name[:120]!r}: file {file!r} is missing. Download the checkpoint again."
            )
    return weight_map


def _single_file(path: Path, present: set[str]) -> str:
    if WHOLE in present:
        return WHOLE
    found = sorted(name for name in present if name.endswith(".safetensors"))
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"{path}: expected {INDEX} beside {len(found)} safetensors files, found none. Download it.")
    gguf = sorted(name for name in present if name.endswith(".gguf"))
    if gguf:
        raise ConfigError(
            f"{path}: expected a checkpoint with safetensors, found GGUF files. Give the file itself, of several "
            f"splits the first: hobbit-export {path / gguf[0]}"
        )
    pickles = sorted(name for name in present if name.endswith(".bin"))
    hint = f" {pickles[0]} is a pickle, which is never loaded: convert it with save_pretrained." if pickles else ""
    hint = hint or " The weights are missing: download the whole checkpoint, not its configuration alone."
    raise ConfigError(f"{path}: expected model.safetensors or {INDEX}, found neither.{hint}")


def compare_with_index(tensors: dict[str, TensorInfo], weight_map: dict[str, str]) -> None:
    """Refuse an index and files that do not name the same tensors.

    Raises:
        BundleError: names the first difference.
    """
    for name, file in weight_map.items():
        if name not in tensors or tensors[name].file.name != file:
            raise BundleError(
                f"{file}: tensor {name[:120]!r}: listed in {INDEX}, but not in the file. Download both again."
            )
    extra = sorted(set(tensors) - set(weight_map)) if weight_map else []
    if extra:
        file = tensors[extra[0]].file.name
        raise BundleError(f"{file}: tensor {extra[0][:120]!r}: in the file, but not in {INDEX}. Download both again.")
