"""Cases of qwen3_5_moe_text: rope with sections, one and several values a key, other orders, biases, tied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.qwen3_next import WEIGHTS as HYBRID_WEIGHTS
from families.rope import rope
from families.tokenizer import EOS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "Qwen3_5MoeTextConfig"
WEIGHTS = HYBRID_WEIGHTS


def text_options(**options: Any) -> dict[str, Any]:
    """Options of a tiny model, with some changed."""
    base: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 64, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 64, "linear_value_head_dim": 16,
        "num_experts": 8, "num_experts_per_tok": 3, "max_position_embeddings": 1024, "eos_token_id": EOS,
        **rope("default", rope_theta=1e7, partial_rotary_factor=0.25, mrope_section=[2, 1, 1], mrope_interleaved=True),
    }  # fmt: skip
    return base | options


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import Qwen3_5MoeTextConfig

    return Qwen3_5MoeTextConfig(**text_options(**options))


OPTIONS: dict[str, dict[str, Any]] = {
    "": {},
    "_one_value_tied": {
        "hidden_size": 96, "linear_num_key_heads": 3, "linear_num_value_heads": 3, "linear_value_head_dim": 32,
        "tie_word_embeddings": True, "num_experts_per_tok": 2,
    },
    "_order": {
        "num_hidden_layers": 3, "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "num_experts": 16, "num_experts_per_tok": 8, "shared_expert_intermediate_size": 64,
        "linear_conv_kernel_dim": 3, **rope("default", partial_rotary_factor=0.5, mrope_section=[3, 3, 2]),
    },
    "_bias_every_other": {
        "attention_bias": True, "full_attention_interval": 2, "num_key_value_heads": 4, "linear_num_value_heads": 8,
        "linear_key_head_dim": 32,
    },
}  # fmt: skip
CASES = {f"qwen3_5_moe_text{name}": lambda options=options: _config(**options) for name, options in OPTIONS.items()}
