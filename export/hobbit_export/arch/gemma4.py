"""model_type gemma4: Gemma 4 with its towers, of which the text part is run: see `gemma4_text`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.base.spec import ModelSpec
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.gemma4_text import DEFAULTS as TEXT_DEFAULTS
from hobbit_export.arch.gemma4_text import names, read_text
from hobbit_export.arch.nested import text_config

MODEL_TYPE = "gemma4"
DEFAULTS = TEXT_DEFAULTS
NAMES = names("model.language_model.")
_MARKS = (
    "boi_token_id", "eoi_token_id", "boa_token_id", "eoa_token_id", "eoa_token_index", "vision_soft_tokens_per_image",
)  # fmt: skip
"""What tells tokens of images and sounds from those of text."""


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from the text part of config.json, and the tokens named around it."""
    for key in _MARKS:
        reader.get(key)
    bos, eos = reader.get("bos_token_id"), reader.get("eos_token_id")
    text = text_config(reader, tied=DEFAULTS["tie_word_embeddings"])
    own = {} if bos is None else {"bos_token_id": bos}
    if eos is not None:
        own["eos_token_id"] = _ends(eos, text.data.get("eos_token_id"))
    return read_text(ConfigReader({**text.data, **own}, text.where), generation, MODEL_TYPE)


def _ends(outer: Any, inner: Any) -> list[Any]:
    """Tokens that the model and its text part name: all of them end a text."""
    found: list[Any] = []
    for tokens in (outer, inner):
        several = tokens if isinstance(tokens, list) else [] if tokens is None else [tokens]
        found += [each for each in several if each not in found]
    return found
