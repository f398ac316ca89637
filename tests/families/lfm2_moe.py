"""Cases of lfm2_moe: convolutions and attention, biases of convolutions, all layers sparse, a long kernel, top 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.tokenizer import EOS
from families.weights import by_fan_in, normal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "Lfm2MoeConfig"
WEIGHTS = ((r"expert_bias$", normal(0.0, 0.1)), (r"feed_forward\.gate\.weight$", by_fan_in(4.0)))


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import Lfm2MoeConfig

    base: dict[str, Any] = {
        "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 8,
        "num_experts_per_tok": 3, "num_dense_layers": 1, "max_position_embeddings": 1024, "pad_token_id": None,
        "bos_token_id": None, "eos_token_id": EOS, "layer_types": ["conv", "conv", "full_attention", "conv"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "tie_word_embeddings": False,
    }  # fmt: skip
    return Lfm2MoeConfig(**{**base, **options})


CASES = {
    "lfm2_moe": _config,
    "lfm2_moe_tied_bias": lambda: _config(tie_word_embeddings=True, conv_bias=True, num_dense_layers=2),
    "lfm2_moe_no_expert_bias": lambda: _config(
        use_expert_bias=False, norm_topk_prob=False, num_dense_layers=0, conv_L_cache=5, routed_scaling_factor=1.5,
        num_key_value_heads=4,
    ),
    "lfm2_moe_attention_first": lambda: _config(
        layer_types=["full_attention", "conv", "full_attention"], num_hidden_layers=3, num_experts_per_tok=1,
        conv_L_cache=2,
    ),
}  # fmt: skip
