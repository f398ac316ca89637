"""Where a model comes from: a checkpoint folder or GGUF files, as one kind of value that the exporter matches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hobbit_export.arch.config import without
from hobbit_export.arch.decoder import GENERATION
from hobbit_export.arch.names import LeftOut, Names
from hobbit_export.byte_files import ByteFiles
from hobbit_export.checkpoint import Checkpoint
from hobbit_export.formats import find_weights
from hobbit_export.formats.config import take
from hobbit_export.shards import read_json
from hobbit_export.tokenizer_files import TokenizerFile, eos_token_id, tokenizer_files
from hobbit_export.weights import Storage, Weight

CONFIG = "config.json"
GGUF_SUFFIX = ".gguf"


@dataclass(frozen=True)
class Origin:
    """What an export reads: headers are checked, weights are read on demand.

    Attributes:
        storage: the open files.
        weights: everything they hold.
        config: config.json, as transformers has it.
        config_sha256: digest of what the configuration was read from, in hex.
        tokenizer: returns the files of the tokenizer, or says how to get them.
        generation: generation_config.json; may be empty.
        eos_token_id: the token by which the tokenizer ends a text, where its files say so.
        names: of the weights, where they are not those of the family's adapter.
        where: file the configuration comes from, for messages.
        unneeded: tensors besides those the adapter leaves out, which the format has and nothing reads.
    """

    storage: Storage
    weights: dict[str, Weight]
    config: dict[str, Any]
    config_sha256: str
    tokenizer: Callable[[], list[TokenizerFile]]
    generation: dict[str, Any] = field(default_factory=dict)
    eos_token_id: int | None = None
    names: Names | None = None
    unneeded: tuple[LeftOut, ...] = ()
    where: str = CONFIG


def open_origin(
    path: Path, ignore_keys: Sequence[str] = (), tokenizer: Path | None = None, files: ByteFiles | None = None
) -> Origin:
    """Open a checkpoint folder, or GGUF files by the first of them.

    Args:
        path: of the folder or file.
        ignore_keys: keys of the configuration to read as if they were not there.
        tokenizer: a folder whose tokenizer is taken in place of the model's own.
        files: where the weight files are, if not there.

    Raises:
        ConfigError: there is no model that can be read.
        BundleError: a header lies.
    """
    if path.suffix == GGUF_SUFFIX and not path.is_dir():
        from hobbit_export.gguf.origin import open_gguf

        return open_gguf(path, ignore_keys, tokenizer, files)
    checkpoint = Checkpoint.open(path, files)
    try:
        return _origin_of(path, checkpoint, ignore_keys, tokenizer)
    except BaseException:
        checkpoint.close()
        raise


def _origin_of(path: Path, checkpoint: Checkpoint, ignore_keys: Sequence[str], tokenizer: Path | None) -> Origin:
    config, quantisation = take(read_json(path / CONFIG))
    weights, unneeded = find_weights(checkpoint, quantisation)
    generation = path / GENERATION
    folder = path if tokenizer is None else tokenizer
    return Origin(
        checkpoint,
        weights,
        without(config, ignore_keys),
        file_sha256(path / CONFIG),
        lambda: tokenizer_files(folder),
        read_json(generation) if generation.exists() else {},
        eos_token_id(folder),
        unneeded=unneeded,
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a small file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
