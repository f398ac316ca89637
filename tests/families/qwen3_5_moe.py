"""Cases of qwen3_5_moe: those of qwen3_5_moe_text beside a vision tower, which is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.qwen3_5_moe_text import OPTIONS, WEIGHTS, text_options

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["AUTO_CLASS", "CASES", "CONFIG_CLASS", "WEIGHTS"]
CONFIG_CLASS = "Qwen3_5MoeConfig"
AUTO_CLASS = "AutoModelForImageTextToText"
_VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "num_position_embeddings": 16}


def _config(options: dict[str, Any]) -> PreTrainedConfig:
    from transformers import Qwen3_5MoeConfig

    text = text_options(**options)
    return Qwen3_5MoeConfig(
        text_config=text, vision_config={**_VISION, "out_hidden_size": text["hidden_size"]}, image_token_id=290,
        video_token_id=291, vision_start_token_id=292, vision_end_token_id=293,
        tie_word_embeddings=text.get("tie_word_embeddings", False),
    )  # fmt: skip


CASES = {f"qwen3_5_moe{name}": lambda options=options: _config(options) for name, options in OPTIONS.items()}
