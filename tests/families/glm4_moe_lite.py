"""Cases of glm4_moe_lite: as published, dense layers by a list, wider keys, plain queries with biases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.deepseek_v3 import BASE, WEIGHTS
from families.rope import rope

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["CASES", "CONFIG_CLASS", "WEIGHTS"]
CONFIG_CLASS = "Glm4MoeLiteConfig"


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import Glm4MoeLiteConfig

    return Glm4MoeLiteConfig(**{**BASE, "qk_nope_head_dim": 24, "v_head_dim": 32, **options})


CASES = {
    "glm4_moe_lite": lambda: _config(rms_norm_eps=1e-3),
    "glm4_moe_lite_dense_by_list": lambda: _config(
        mlp_layer_types=["sparse", "dense", "sparse", "dense"], num_hidden_layers=4, n_group=4, topk_group=2,
        n_shared_experts=2,
    ),
    "glm4_moe_lite_wide_keys": lambda: _config(
        qk_rope_head_dim=16, num_hidden_layers=2, n_routed_experts=8, num_experts_per_tok=2, kv_lora_rank=48,
        **rope("default", partial_rotary_factor=1.0),
    ),
    "glm4_moe_lite_plain_queries": lambda: _config(
        q_lora_rank=None, attention_bias=True, hidden_size=96, num_attention_heads=3, num_key_value_heads=3,
        tie_word_embeddings=True, num_hidden_layers=2, norm_topk_prob=False,
    ),
}  # fmt: skip
