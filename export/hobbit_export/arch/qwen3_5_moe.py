"""model_type qwen3_5_moe: a qwen3_5_moe_text beside a vision tower, which is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import ModelSpec
from hobbit_export.arch import qwen3_5_moe_text as text
from hobbit_export.arch.config import ConfigReader

MODEL_TYPE = "qwen3_5_moe"
DEFAULTS, NAMES = text.DEFAULTS, text.NAMES
_OF_IMAGES = frozenset({
    "vision_config", "image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id",
    "language_model_only",
})  # fmt: skip
_TIED = "tie_word_embeddings"


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json: the text model's is in `text_config`."""
    inner = reader.get("text_config", {})
    if not isinstance(inner, dict):
        raise ConfigError(f"{reader.where}: text_config: expected an object, got {str(inner)[:60]}.")
    tied = reader.flag(_TIED, inner.get(_TIED, False))
    if inner.get(_TIED, tied) != tied:
        raise reader.refuse(_TIED, tied, f"text_config says {inner[_TIED]!r}.")
    spec = text.read_spec(ConfigReader({**inner, _TIED: tied}, f"{reader.where}: text_config"), generation)
    reader.finish(_OF_IMAGES)
    return replace(spec, family=MODEL_TYPE)
