"""A model by its config.json and the index of its weight files alone: what a dry run of a model by name goes by.

Names of all tensors are held against the configuration, and what is left out is found. Types and shapes are not in an
index: sizes are those the configuration asks for, in the type it states, beside the bytes that the index states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hobbit_export.arch.config import without
from hobbit_export.byte_files import ByteFiles
from hobbit_export.checkpoint import RAW_DTYPES
from hobbit_export.formats.by_name import weights_by_name
from hobbit_export.formats.config import take
from hobbit_export.options import ExportOptions
from hobbit_export.origin import CONFIG, Origin, file_sha256
from hobbit_export.shards import read_index, read_json
from hobbit_export.source import SourceModel
from hobbit_export.tokenizer_files import tokenizer_files
from hobbit_export.unread import UnreadFiles, UnreadWeight

_STATED = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_USUAL = "BF16"
_INNER = ("text_config", "llm_config", "language_config")
_TWICE = 1.5
"""Bytes next to those of 2-byte numbers from which on an index means 4-byte ones; towers left out add less."""


@dataclass(frozen=True)
class IndexedModel:
    """What an index and a configuration say of a model.

    Attributes:
        source: its weights cannot be read; its tokenizer only where one is given.
        tensors: how many are stored.
        files: how many weight files there are.
        stated_bytes: of all tensors, as the index says; where it does not, of the files.
        matched_bytes: of the tensors that are exported, by configuration and type; None where they are quantised.
        dtype: type that plain tensors are taken to have.
        why: where that type is from, for people.
    """

    source: SourceModel
    tensors: int
    files: int
    stated_bytes: int
    matched_bytes: int | None
    dtype: str
    why: str


def open_by_index(options: ExportOptions, files: ByteFiles) -> IndexedModel | None:
    """Match a model's index with its configuration; None: it has no index, since one file holds all.

    Raises:
        ConfigError: an option or family is not supported.
        BundleError: the index lies; a tensor is missing, or one that nothing reads.
        BudgetError: what a file says of itself might not fit under the ceiling.
    """
    weight_map, total = read_index(files)
    if not weight_map:
        return None
    config, quantisation = take(read_json(files.folder / CONFIG))
    config = without(config, options.ignore_keys)
    shards = sorted(set(weight_map.values()))
    stated = total or sum(files.size(name) for name in shards)
    storage = UnreadFiles(options.checkpoint, [files.folder / name for name in shards], stated)
    digest = file_sha256(files.folder / CONFIG)
    folder = files.folder if options.tokenizer is None else options.tokenizer

    def matched(dtype: str) -> SourceModel:
        weights, unneeded = weights_by_name(weight_map, files.folder, dtype, quantisation)
        origin = Origin(storage, weights, config, digest, lambda: tokenizer_files(folder), unneeded=unneeded)
        return SourceModel.of(origin, options.source_name).coded(options.codes)

    dtype, why = _dtype(config)
    source = matched(dtype)
    expected = _plain_bytes(source)
    if quantisation is None and RAW_DTYPES[dtype][1](0).itemsize == 2 and stated > _TWICE * expected:
        dtype, why = "F32", "as total_size says"
        source, expected = matched(dtype), 2 * expected
    known = expected if quantisation is None else None
    return IndexedModel(source, len(weight_map), len(shards), stated, known, dtype, why)


def _dtype(config: dict[str, Any]) -> tuple[str, str]:
    """Return the type that a configuration states for its weights, and where that is from."""
    for part in (config, *(config[name] for name in _INNER if isinstance(config.get(name), dict))):
        for key in ("dtype", "torch_dtype"):
            stated = part.get(key)
            if isinstance(stated, str) and stated in _STATED:
                return _STATED[stated], f"as config.json's {key} says"
    return _USUAL, "as is usual; config.json does not say"


def _plain_bytes(source: SourceModel) -> int:
    return sum(weight.num_bytes for weight in source.weights.values() if isinstance(weight, UnreadWeight))
