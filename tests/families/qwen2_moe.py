"""Cases of qwen2_moe: its default, dense layers between (dynamic rope; many experts), tied sliding windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.rope import rope
from families.tokenizer import EOS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "Qwen2MoeConfig"


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import Qwen2MoeConfig

    base: dict[str, Any] = {
        "vocab_size": 300, "hidden_size": 96, "intermediate_size": 144, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6,
        "num_key_value_heads": 2, "num_experts": 6, "num_experts_per_tok": 2, "max_position_embeddings": 1024,
        "eos_token_id": EOS,
    }  # fmt: skip
    return Qwen2MoeConfig(**{**base, **options})


CASES = {
    "qwen2_moe": _config,
    "qwen2_moe_sparse_step_dynamic": lambda: _config(
        hidden_size=64, num_attention_heads=4, num_key_value_heads=4, num_hidden_layers=4, decoder_sparse_step=2,
        norm_topk_prob=True, qkv_bias=False, max_position_embeddings=64, **rope("dynamic", factor=2.0),
    ),
    "qwen2_moe_sliding": lambda: _config(
        num_hidden_layers=3, use_sliding_window=True, sliding_window=12, max_window_layers=3, tie_word_embeddings=True,
        num_experts_per_tok=1,
    ),
    "qwen2_moe_many_experts": lambda: _config(
        num_experts=20, num_experts_per_tok=4, mlp_only_layers=[1], num_hidden_layers=3, num_key_value_heads=6,
        shared_expert_intermediate_size=160, **rope("default", rope_theta=1e6),
    ),
}  # fmt: skip
