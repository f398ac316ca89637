"""Where a model comes from: a checkpoint folder or GGUF files, as one kind of value that the exporter matches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hobbit_export.arch.names import LeftOut, Names
from hobbit_export.tokenizer_files import TokenizerFile
from hobbit_export.weights import Storage, Weight

CONFIG = "config.json"


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


def file_sha256(path: Path) -> str:
    """SHA-256 of a small file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
