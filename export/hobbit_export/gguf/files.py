"""The files of a GGUF model: one, or a set of splits that name each other. Untrusted input."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from edge_runtime.base.errors import BundleError, ConfigError
from hobbit_export.byte_files import ByteFiles, LocalFiles
from hobbit_export.checkpoint import Checkpoint
from hobbit_export.gguf.cursor import FIX
from hobbit_export.gguf.header import Header, read_header
from hobbit_export.gguf.metadata import Metadata

SUFFIX = ".gguf"
SPLIT = re.compile(r"(?P<prefix>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_MAX_SPLITS = 4096
_READ_BYTES = 1 << 20


def open_files(path: Path, files: ByteFiles | None = None) -> tuple[Checkpoint, Metadata, str]:
    """Read and check the headers of a file, or of all splits where it is the first of them.

    Args:
        path: of the file.
        files: where it and its splits are, if not there.

    Returns:
        The tensors, the keys of the first file, and a digest of all headers.

    Raises:
        ConfigError: there is no such file, or it is not the first split.
        BundleError: a header lies, a split is missing, or the splits do not belong together.
    """
    if files is None and not path.is_file():
        raise ConfigError(f"{path}: expected a GGUF file, found {'a folder' if path.exists() else 'nothing'}.")
    first = read_header(path, files)
    headers = [first, *_others(path, first.metadata, files)]
    tensors = dict(first.tensors)
    for header in headers[1:]:
        twice = sorted(set(tensors) & set(header.tensors))
        if twice:
            raise BundleError(
                f"{header.metadata.file.name}: tensor {twice[0]!r}: is also in {tensors[twice[0]].file.name}. {FIX}"
            )
        tensors |= header.tensors
    total = first.metadata.count("split.tensors.count")
    if total is not None and total != len(tensors):
        raise BundleError(f"{path.name}: split.tensors.count: expected {len(tensors)}, as the files have, got {total}.")
    return Checkpoint(path, tensors, files or LocalFiles(path.parent)), first.metadata, _digest(headers)


def _others(path: Path, metadata: Metadata, files: ByteFiles | None) -> list[Header]:
    """Read the headers of the other splits."""
    count, named = metadata.count("split.count"), SPLIT.fullmatch(path.name)
    if not count or count == 1:
        return []
    if count > _MAX_SPLITS:
        raise BundleError(f"{path.name}: split.count: expected at most {_MAX_SPLITS}, got {count}. {FIX}")
    if named is None or int(named["count"]) != count:
        raise ConfigError(
            f"{path.name}: is one of {count} splits: expected a name that ends in -00001-of-{count:05}.gguf. "
            "Give all splits their names back."
        )
    names = [f"{named['prefix']}-{i + 1:05}-of-{count:05}.gguf" for i in range(count)]
    if metadata.count("split.no") != 0:
        raise ConfigError(f"{path.name}: is not the first of {count} splits. Give {names[0]}.")
    present = (files or LocalFiles(path.parent)).names()
    missing = [name for name in names if name not in present]
    if missing:
        raise BundleError(f"{path.name}: split {missing[0]} is missing beside it ({len(missing)} of {count}). {FIX}")
    return [_split(path.parent / name, number, count, files) for number, name in enumerate(names) if number]


def _split(path: Path, number: int, count: int, files: ByteFiles | None) -> Header:
    header = read_header(path, files)
    for key, expected in (("split.no", number), ("split.count", count)):
        got = header.metadata.count(key)
        if got != expected:
            raise BundleError(f"{path.name}: {key}: expected {expected}, got {got}. {FIX}")
    return header


def _digest(headers: list[Header]) -> str:
    """SHA-256 of the headers, in hex."""
    hasher = hashlib.sha256()
    for header in headers:
        with header.metadata.opened() as file:
            file.seek(0)
            for at in range(0, header.num_bytes, _READ_BYTES):
                hasher.update(file.read(min(_READ_BYTES, header.num_bytes - at)))
    return hasher.hexdigest()
