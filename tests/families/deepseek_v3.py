"""Cases of deepseek_v3: groups with dense layers, YaRN with mscale and biases, plain queries, tied embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.rope import rope
from families.tokenizer import EOS
from families.weights import by_fan_in, normal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "DeepseekV3Config"
# logits for which a sigmoid is not flat
WEIGHTS = ((r"e_score_correction_bias$", normal(0.0, 0.1)), (r"mlp\.gate\.weight$", by_fan_in(2.0)))
BASE: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 112, "moe_intermediate_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 4, "n_routed_experts": 16, "num_experts_per_tok": 4,
    "n_shared_experts": 1, "kv_lora_rank": 32, "q_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
    "v_head_dim": 24, "max_position_embeddings": 1024, "bos_token_id": None, "eos_token_id": EOS,
}  # fmt: skip
# as published: the two mscales alike, so that cosines keep their size and scores are multiplied
MSCALE = rope(
    "yarn", factor=4.0, original_max_position_embeddings=256, beta_fast=32, beta_slow=1, mscale=0.707,
    mscale_all_dim=0.707,
)  # fmt: skip


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import DeepseekV3Config

    return DeepseekV3Config(**{**BASE, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1, **options})


# the first one is what tests of every family run: no rounding of an int8 trunk turns its tokens
CASES = {
    "deepseek_v3_tied_wide": lambda: _config(
        tie_word_embeddings=True, hidden_size=128, kv_lora_rank=64, qk_rope_head_dim=16, v_head_dim=16, n_group=8,
        topk_group=4, num_experts_per_tok=6, **rope("linear", factor=2.0),
    ),
    "deepseek_v3": _config,
    "deepseek_v3_yarn_biases": lambda: _config(
        attention_bias=True, n_shared_experts=2, first_k_dense_replace=2, num_hidden_layers=4, rms_norm_eps=1e-3,
        **MSCALE,
    ),
    "deepseek_v3_plain_queries": lambda: _config(
        q_lora_rank=None, hidden_size=96, num_attention_heads=6, num_key_value_heads=6, n_group=1, topk_group=1,
        n_routed_experts=12, norm_topk_prob=False, routed_scaling_factor=1.0, first_k_dense_replace=0,
    ),
}  # fmt: skip
