"""Cases of glm4_moe: biases as in GLM-4.5-Air, norms of queries and keys as in GLM-4.5, groups, whole heads rotated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.rope import rope
from families.tokenizer import EOS
from families.weights import by_fan_in, normal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "Glm4MoeConfig"
# logits for which a sigmoid is not flat
WEIGHTS = ((r"e_score_correction_bias$", normal(0.0, 0.1)), (r"mlp\.gate\.weight$", by_fan_in(2.0)))

# the class has no head_dim, and half of hidden / heads is odd
REQUIRED = {"head_dim": 128}


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import Glm4MoeConfig

    base: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 64, "intermediate_size": 112, "moe_intermediate_size": 32,
        "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16,
        "n_routed_experts": 16, "num_experts_per_tok": 4, "max_position_embeddings": 1024, "eos_token_id": EOS,
    }  # fmt: skip
    return Glm4MoeConfig(**{**base, **options})


CASES = {
    "glm4_moe": lambda: _config(attention_bias=True),
    "glm4_moe_qk_norm": lambda: _config(
        use_qk_norm=True, attention_bias=True, routed_scaling_factor=2.5, first_k_dense_replace=2, num_hidden_layers=4,
        head_dim=32,
    ),
    "glm4_moe_groups": lambda: _config(
        n_group=4, topk_group=2, n_shared_experts=2, num_key_value_heads=6, norm_topk_prob=False, num_experts_per_tok=6,
        first_k_dense_replace=0, num_hidden_layers=2,
    ),
    "glm4_moe_whole_heads": lambda: _config(
        num_key_value_heads=1, n_routed_experts=8, num_experts_per_tok=2, hidden_size=96, num_hidden_layers=2,
        tie_word_embeddings=True, **rope("linear", factor=2.0, partial_rotary_factor=1.0),
    ),
}  # fmt: skip
