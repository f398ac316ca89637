"""model_type gemma4: Gemma 4 with its towers, of which the text part is run: see `gemma4_text`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import ModelSpec
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.gemma4_text import DEFAULTS as TEXT_DEFAULTS
from hobbit_export.arch.gemma4_text import names, read_text

MODEL_TYPE = "gemma4"
DEFAULTS: dict[str, Any] = {"tie_word_embeddings": True}
NAMES = names("model.language_model.")
_TOWERS = frozenset({
    "vision_config", "audio_config", "boi_token_id", "eoi_token_id", "image_token_id", "video_token_id",
    "boa_token_id", "eoa_token_id", "eoa_token_index", "audio_token_id", "vision_soft_tokens_per_image",
})  # fmt: skip
"""What tells tokens of images and sounds from those of text."""


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from the text part of config.json; whether embeddings are tied is said outside it."""
    inner = reader.get("text_config")
    if not isinstance(inner, dict):
        raise ConfigError(f"{reader.where}: text_config: expected an object, got {str(inner)[:60]}.")
    tied = reader.flag("tie_word_embeddings", DEFAULTS["tie_word_embeddings"])
    own = {"tie_word_embeddings": tied, "eos_token_id": _ends(inner.get("eos_token_id"), reader.get("eos_token_id"))}
    if reader.get("bos_token_id") is not None:
        own["bos_token_id"] = reader.get("bos_token_id")
    reader.finish(_TOWERS)
    text = ConfigReader({**inner, **own}, f"{reader.where}: text_config")
    return read_text(text, generation, MODEL_TYPE)


def _ends(inner: Any, outer: Any) -> list[Any]:
    """Tokens that the model and its text part name: all of them end a text."""
    given = [TEXT_DEFAULTS["eos_token_id"] if inner is None and outer is None else outer, inner]
    found: list[Any] = []
    for tokens in given:
        several = tokens if isinstance(tokens, list) else [] if tokens is None else [tokens]
        found += [each for each in several if each not in found]
    return found
