"""Cases of qwen3_moe: its default, dense layers with YaRN, biases with sliding windows, heads wider than the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.rope import YARN, rope
from families.tokenizer import EOS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "Qwen3MoeConfig"


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import Qwen3MoeConfig

    base: dict[str, Any] = {
        "vocab_size": 384, "hidden_size": 128, "intermediate_size": 192, "moe_intermediate_size": 64, "head_dim": 24,
        "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "num_experts": 16,
        "num_experts_per_tok": 4, "max_position_embeddings": 1024, "eos_token_id": EOS,
    }  # fmt: skip
    return Qwen3MoeConfig(**{**base, **options})


CASES = {
    "qwen3_moe": lambda: _config(norm_topk_prob=True),
    "qwen3_moe_mlp_only_yarn": lambda: _config(
        num_hidden_layers=4, mlp_only_layers=[0, 2], tie_word_embeddings=True, num_key_value_heads=4, **YARN
    ),
    "qwen3_moe_bias_sliding": lambda: _config(
        attention_bias=True, use_sliding_window=True, sliding_window=16, num_key_value_heads=1, head_dim=16,
        num_experts=12, norm_topk_prob=True,
    ),
    "qwen3_moe_wide_heads": lambda: _config(
        hidden_size=64, head_dim=64, num_attention_heads=4, num_experts=32, num_experts_per_tok=8, norm_topk_prob=True,
        num_hidden_layers=3, **rope("default", rope_theta=1e6),
    ),
}  # fmt: skip
