"""The files a checkpoint would have beside its weights, out of the keys of a GGUF file."""

from __future__ import annotations

import json
import re
from typing import Any

from edge_runtime.base.errors import ConfigError
from hobbit_export.gguf.metadata import Metadata
from hobbit_export.gguf.tokenizer.models import tokenizer_json
from hobbit_export.gguf.tokenizer.vocabulary import Vocabulary, read_vocabulary

_TEMPLATE, _TEMPLATES = "tokenizer.chat_template", "tokenizer.chat_templates"
_MAX_TEMPLATES = 64
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NAMED = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
_SAMPLING = {
    "temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "penalty_repeat": "repetition_penalty",
}  # fmt: skip


def tokenizer_files(metadata: Metadata, vocab_size: int) -> dict[str, bytes]:
    """Return tokenizer.json and tokenizer_config.json.

    Raises:
        ConfigError: the file has no tokenizer, or one that is not known; the way out is named.
    """
    vocabulary = read_vocabulary(metadata, vocab_size)
    return {
        "tokenizer.json": _json(tokenizer_json(metadata, vocabulary)),
        "tokenizer_config.json": _json(_config(metadata, vocabulary)),
    }


def generation(metadata: Metadata, ends: tuple[int, ...]) -> dict[str, Any]:
    """Return generation_config.json: how the file says the model wants to be sampled, and which tokens end a text."""
    read = {new: metadata.number(f"general.sampling.{old}") for old, new in _SAMPLING.items()}
    found: dict[str, Any] = {name: value for name, value in read.items() if value is not None}
    if "top_k" in found:
        found["top_k"] = int(found["top_k"])
    return {**found, "eos_token_id": list(ends)} if ends else found


def _config(metadata: Metadata, vocabulary: Vocabulary) -> dict[str, Any]:
    named = {key: vocabulary.text(name) for name, key in _NAMED.items()}
    config = {key: text for key, text in named.items() if text is not None}
    templates = _templates(metadata)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config,
        **({"chat_template": templates} if templates else {}),
    }  # fmt: skip


def _templates(metadata: Metadata) -> str | list[dict[str, str]] | None:
    """Read the chat template, or several with their names."""
    default = metadata.text(_TEMPLATE)
    names = metadata.strings(_TEMPLATES, _MAX_TEMPLATES) or []
    found = [] if default is None else [{"name": "default", "template": default}]
    for name in names:
        template = metadata.text(f"{_TEMPLATE}.{name}")
        if _NAME.fullmatch(name) is None or template is None:
            raise ConfigError(
                f"{metadata.file.name}: {_TEMPLATES}: expected names of templates in the file, got {name[:60]!r}."
            )
        found.append({"name": name, "template": template})
    return default if len(found) < 2 else found


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
