"""Cases of gemma4: those of gemma4_text below a vision tower, which is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.gemma4_text import OPTIONS, TEXT, WEIGHTS
from families.gemma4_text import REQUIRED as TEXT_REQUIRED

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["AUTO_CLASS", "CASES", "CONFIG_CLASS", "REQUIRED", "WEIGHTS"]
CONFIG_CLASS = "Gemma4Config"
AUTO_CLASS = "AutoModelForImageTextToText"
REQUIRED = {"text_config": TEXT_REQUIRED}
_VISION = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "position_embedding_size": 16, "patch_size": 4,
}  # fmt: skip
_TOKENS = dict(zip(
    ("image_token_id", "video_token_id", "audio_token_id", "boi_token_id", "eoi_token_id", "boa_token_id",
     "eoa_token_index"), range(1000, 1007), strict=True,
))  # fmt: skip


def _config(options: dict[str, Any]) -> PreTrainedConfig:
    from transformers import Gemma4Config

    text = {**TEXT, "pad_token_id": 0, **options}  # images are embedded as padding first
    tied = text.get("tie_word_embeddings", True)
    return Gemma4Config(
        text_config=text, vision_config=_VISION, audio_config=None, tie_word_embeddings=tied, **_TOKENS
    )  # fmt: skip


CASES = {f"gemma4{name}": lambda options=options: _config(options) for name, options in OPTIONS.items()}
