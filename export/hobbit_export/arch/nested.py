"""Configurations of models with a vision tower: the text part is an object inside, and it alone is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.base.errors import ConfigError
from hobbit_export.arch.config import ConfigReader

_TOWERS = frozenset({
    "vision_config", "audio_config", "image_token_id", "video_token_id", "audio_token_id", "vision_start_token_id",
    "vision_end_token_id", "language_model_only",
})  # fmt: skip
_GRIDS = ("mrope_section", "mrope_interleaved")


def text_config(reader: ConfigReader, *, tied: bool) -> ConfigReader:
    """Return the reader of `text_config`, as if it were a configuration of its own.

    Whether embeddings are the head as well is said outside. Sections of a rope over grids are dropped: text has the
    same position in every grid.

    Args:
        reader: config.json; what it has besides the text part and towers is refused.
        tied: transformers' default of `tie_word_embeddings`.

    Raises:
        ConfigError: it is no object, or the part around it has an unknown key.
    """
    inner = reader.get("text_config", {})
    if not isinstance(inner, dict):
        raise ConfigError(f"{reader.where}: text_config: expected an object, got {str(inner)[:60]}.")
    tied = reader.flag("tie_word_embeddings", tied)
    reader.finish(_TOWERS)
    return ConfigReader({**without_grids(inner), "tie_word_embeddings": tied}, f"{reader.where}: text_config")


def without_grids(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a text model's configuration without the sections of its rope over grids."""
    return {key: _without_grids(value) if key.startswith("rope_") else value for key, value in config.items()}


def _without_grids(rope: Any) -> Any:
    return {key: value for key, value in rope.items() if key not in _GRIDS} if isinstance(rope, dict) else rope
