"""Cases of kimi_linear: wide heads, the default order of layers, compressed queries with groups, tied embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.tokenizer import EOS
from families.weights import by_fan_in, normal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "KimiLinearConfig"
WEIGHTS = (
    (r"e_score_correction_bias$", normal(0.0, 0.1)),
    (r"mlp\.gate\.weight$", by_fan_in(2.0)),
    (r"A_log$", normal(0.0, 1.0)),
    (r"conv1d\.weight$", normal(0.0, 0.6)),
)


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import KimiLinearConfig

    base: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 64, "intermediate_size": 112, "moe_intermediate_size": 32,
        "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 4, "num_local_experts": 16,
        "num_experts_per_tok": 4, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 24,
        "linear_head_dim": 16, "linear_num_heads": 4, "max_position_embeddings": 1024, "bos_token_id": None,
        "eos_token_id": EOS, "pad_token_id": None,
    }  # fmt: skip
    return KimiLinearConfig(**{**base, **options})


CASES = {
    "kimi_linear": lambda: _config(
        hidden_size=96, linear_head_dim=32, linear_num_heads=2, num_hidden_layers=3, norm_topk_prob=False,
        num_experts_per_tok=2, mlp_layer_types=["dense", "sparse", "dense"],
        layer_types=["linear_attention", "linear_attention", "full_attention"],
    ),
    "kimi_linear_default_order": _config,
    "kimi_linear_groups": lambda: _config(
        q_lora_rank=24, n_group=4, topk_group=2, n_shared_experts=2, num_hidden_layers=3, linear_conv_kernel_dim=2,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
    ),
    "kimi_linear_tied": lambda: _config(
        tie_word_embeddings=True, hidden_size=128, num_hidden_layers=2, rms_norm_eps=1e-3,
        layer_types=["linear_attention", "full_attention"],
    ),
}  # fmt: skip
