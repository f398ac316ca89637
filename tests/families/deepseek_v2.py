"""Cases of deepseek_v2: plain queries as in V2-Lite with YaRN, groups as in V2, biases, tied embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.deepseek_v3 import BASE, MSCALE
from families.rope import rope

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "DeepseekV2Config"
# the class has no number of experts a token, and a width no kernel computes
REQUIRED = {"num_experts_per_tok": 6, "moe_intermediate_size": 1408}


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import DeepseekV2Config

    return DeepseekV2Config(**{**BASE, "q_lora_rank": None, "first_k_dense_replace": 1, **options})


CASES = {
    "deepseek_v2": lambda: _config(n_shared_experts=2, n_group=1, topk_group=1, **MSCALE),
    "deepseek_v2_groups": lambda: _config(
        q_lora_rank=24, topk_method="group_limited_greedy", n_group=4, topk_group=2, routed_scaling_factor=4.0,
        num_hidden_layers=2,
        **rope("yarn", factor=4.0, original_max_position_embeddings=256, mscale=1.0, mscale_all_dim=0.5),
    ),
    "deepseek_v2_biases": lambda: _config(
        q_lora_rank=32, attention_bias=True, first_k_dense_replace=0, num_hidden_layers=2, rms_norm_eps=1e-3,
        hidden_size=96, num_attention_heads=3, num_key_value_heads=3,
    ),
    "deepseek_v2_tied": lambda: _config(
        tie_word_embeddings=True, hidden_size=128, kv_lora_rank=64, qk_rope_head_dim=16, n_routed_experts=8,
        num_experts_per_tok=3, first_k_dense_replace=2, num_hidden_layers=4,
    ),
}  # fmt: skip
