"""Cases of qwen3_vl_moe: its default, dense layers, biases with tied embeddings, YaRN. Checkpoints have the tower."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.rope import YARN
from families.tokenizer import EOS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "Qwen3VLMoeConfig"
AUTO_CLASS = "AutoModelForImageTextToText"
_VISION = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64,
    "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
}  # fmt: skip
_GRIDS = {"mrope_section": [4, 2, 2], "mrope_interleaved": True}


def _config(tie_word_embeddings: bool = False, **options: Any) -> PreTrainedConfig:
    from transformers import Qwen3VLMoeConfig

    text: dict[str, Any] = {
        "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32, "head_dim": 16,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 8,
        "num_experts_per_tok": 3, "max_position_embeddings": 1024, "eos_token_id": EOS, "norm_topk_prob": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, **_GRIDS},
    }  # fmt: skip
    return Qwen3VLMoeConfig(
        text_config={**text, **options}, vision_config={**_VISION, "out_hidden_size": 64},
        tie_word_embeddings=tie_word_embeddings, image_token_id=290, video_token_id=291, vision_start_token_id=292,
        vision_end_token_id=293,
    )  # fmt: skip


CASES = {
    "qwen3_vl_moe": _config,
    "qwen3_vl_moe_mlp_only": lambda: _config(num_hidden_layers=4, mlp_only_layers=[0], decoder_sparse_step=2),
    "qwen3_vl_moe_bias_tied": lambda: _config(
        tie_word_embeddings=True, attention_bias=True, num_key_value_heads=4, num_experts_per_tok=1
    ),
    "qwen3_vl_moe_yarn": lambda: _config(
        num_experts=16, num_experts_per_tok=8, rope_parameters={**YARN["rope_parameters"], **_GRIDS}
    ),
}  # fmt: skip
