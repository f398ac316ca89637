"""A GGUF model as the source of an export: weights by name, config.json and tokenizer made from its keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import ConfigError
from edge_runtime.bundle.tokenizer_file import most_bytes
from hobbit_export.arch import find_adapter
from hobbit_export.arch.names import LeftOut
from hobbit_export.byte_files import ByteFiles
from hobbit_export.gguf.architectures.family import Family
from hobbit_export.gguf.common import ModelKeys
from hobbit_export.gguf.families import family_of
from hobbit_export.gguf.files import open_files
from hobbit_export.gguf.keys import Keys
from hobbit_export.gguf.metadata import Metadata
from hobbit_export.gguf.names import gguf_names
from hobbit_export.gguf.tokenizer.files import generation, tokenizer_files
from hobbit_export.gguf.tokenizer.vocabulary import PREFIX, ends, special_tokens
from hobbit_export.gguf.weight import weight_of
from hobbit_export.origin import Origin
from hobbit_export.tokenizer_files import TokenizerFile, eos_token_id
from hobbit_export.tokenizer_files import tokenizer_files as files_of_folder


def open_gguf(
    path: Path, ignore_keys: Sequence[str] = (), tokenizer: Path | None = None, files: ByteFiles | None = None
) -> Origin:
    """Open a GGUF file, or splits by the first of them.

    Args:
        path: of the file.
        ignore_keys: keys of the file to read as if they were not there.
        tokenizer: a folder whose tokenizer is taken in place of the one in the file.
        files: where the files are, if not there.

    Raises:
        ConfigError: the architecture, one of its keys or the tokenizer is not read; it is named.
        BundleError: a header lies.
    """
    storage, metadata, digest = open_files(path, files)
    architecture = _architecture(metadata)
    special = special_tokens(metadata)
    keys = Keys(metadata, architecture, ignore_keys)
    found = ModelKeys(
        keys, storage.tensors, special.get("bos"), ends(special), storage.tensor_f32, metadata.text(f"{PREFIX}pre")
    )
    family = family_of(architecture, found)
    config = {"model_type": family.model_type, **family.read(found)}
    text = config.get("text_config", config)
    keys.finish()
    adapter = find_adapter(config)
    names = gguf_names(architecture, adapter.NAMES, family.tensors, family.before, storage.tensors)
    names = replace(names, left_out=(*family.left_out, *_drafting(keys, text["num_hidden_layers"])))
    weights = {name: weight_of(storage, name) for name in storage.tensors}
    for canonical, name in _undone(family, names.layer, text["num_hidden_layers"]):
        if name in weights:
            weights[name] = family.undo[canonical](weights[name], text)
    return Origin(
        storage,
        weights,
        config,
        digest,
        _tokenizer(metadata, text["vocab_size"], tokenizer),
        generation(metadata, found.eos_token_ids),
        None if tokenizer is None else eos_token_id(tokenizer),
        names,
        where=path.name,
    )


def _architecture(metadata: Metadata) -> str:
    architecture = metadata.text("general.architecture")
    if not architecture:
        raise ConfigError(f"{metadata.file.name}: general.architecture: expected a name, got nothing.")
    return architecture


def _undone(family: Family, layer: Mapping[str, Any], num_layers: int) -> list[tuple[str, str]]:
    """Canonical name and tensor of every weight that conversion changed."""
    named = {each: getattr(layer[each], "tensor", layer[each]) for each in family.undo if each in layer}
    return [(each, f"blk.{i}.{name}") for i in range(num_layers) for each, name in named.items()]


def _drafting(keys: Keys, num_layers: int) -> tuple[LeftOut, ...]:
    """Layers behind the last one that is run."""
    behind = "|".join(map(str, range(num_layers, keys.num_blocks)))
    reason = "layers that predict several tokens (mtp), which are not run"
    return (LeftOut(re.compile(rf"blk\.({behind})\..*"), reason),) if behind else ()


def _tokenizer(metadata: Metadata, vocab_size: int, folder: Path | None) -> Callable[[], list[TokenizerFile]]:
    if folder is not None:
        return lambda: files_of_folder(folder)
    made = [TokenizerFile(name, content=raw) for name, raw in tokenizer_files(metadata, vocab_size).items()]
    for file in made:
        if file.num_bytes > most_bytes(vocab_size):
            raise ConfigError(
                f"{metadata.file.name}: tokenizer: expected at most {most_bytes(vocab_size)} bytes for {vocab_size} "
                f"tokens, got {file.num_bytes}. Give the model's own tokenizer: --tokenizer DIR"
            )
    return lambda: made
