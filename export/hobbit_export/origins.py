"""Opens where a model comes from: a checkpoint folder or GGUF files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hobbit_export.arch.config import without
from hobbit_export.arch.decoder import GENERATION
from hobbit_export.byte_files import ByteFiles
from hobbit_export.checkpoint import Checkpoint
from hobbit_export.formats import find_weights
from hobbit_export.formats.config import take
from hobbit_export.gguf.origin import open_gguf
from hobbit_export.origin import CONFIG, Origin, file_sha256
from hobbit_export.shards import read_json
from hobbit_export.tokenizer_files import eos_token_id, tokenizer_files

GGUF_SUFFIX = ".gguf"


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
