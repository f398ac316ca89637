"""Cases of qwen3_next: Gated DeltaNet with one and several values a key, dense layers, other orders, YaRN, biases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.rope import rope
from families.tokenizer import EOS
from families.weights import by_fan_in, normal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "Qwen3NextConfig"
# Norms are stored as distances from 1. Some states forget within a few tokens, others last. Queries and keys are far
# from zero, so that SiLU keeps them mostly positive: at right angles to each other, the first tokens' outputs would be
# a norm of rounding noise.
WEIGHTS = (
    (r"in_proj_qkv", by_fan_in(4.0)),
    (r"linear_attn\.norm\.weight$", normal(1.0, 0.15)),
    (r"norm\.weight$", normal(0.0, 0.15)),
    (r"A_log$", normal(-1.5, 1.5)),
    (r"dt_bias$", normal(-0.5, 1.0)),
)


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import Qwen3NextConfig

    base: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 64, "linear_value_head_dim": 24, "num_experts": 8, "num_experts_per_tok": 3,
        "max_position_embeddings": 1024, "eos_token_id": EOS,
    }  # fmt: skip
    return Qwen3NextConfig(**{**base, **options})


CASES = {
    "qwen3_next": _config,
    "qwen3_next_one_value_tied": lambda: _config(
        head_dim=32, linear_num_key_heads=3, linear_num_value_heads=3, linear_key_head_dim=32, linear_value_head_dim=16,
        norm_topk_prob=False, tie_word_embeddings=True, **rope("default", partial_rotary_factor=0.5),
    ),
    "qwen3_next_dense_yarn": lambda: _config(
        hidden_size=96, mlp_only_layers=[1], num_hidden_layers=3, head_dim=32,
        layer_types=["full_attention", "linear_attention", "linear_attention"],
        **rope("yarn", factor=4.0, original_max_position_embeddings=256, partial_rotary_factor=0.25),
    ),
    "qwen3_next_bias_every_other": lambda: _config(
        attention_bias=True, full_attention_interval=2, linear_num_value_heads=8, linear_conv_kernel_dim=2,
        num_key_value_heads=1, num_experts_per_tok=1, num_experts=6,
    ),
}  # fmt: skip
