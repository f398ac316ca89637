"""Cases of gemma4_text: windows and global layers with heads of their own, K = V or not, softcaps that bite, biases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.tokenizer import EOS
from families.weights import normal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "Gemma4TextConfig"
WEIGHTS = (
    (r"layernorm_\d\.weight$|router\.scale$|layer_scalar$", normal(1.0, 0.15)),
    (r"per_expert_scale$", normal(1.0, 0.25)),
    (r"router\.proj\.weight$", normal(0.0, 4.0)),  # behind a norm and D^-0.5
)
REQUIRED: dict[str, Any] = {
    "enable_moe_block": True, "num_experts": 16, "top_k_experts": 4, "moe_intermediate_size": 64,
    "hidden_size_per_layer_input": 0,
}  # fmt: skip
SLIDING, FULL = "sliding_attention", "full_attention"
TEXT: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 96, "intermediate_size": 80, "moe_intermediate_size": 32, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 32,
    "num_global_key_value_heads": 1, "attention_k_eq_v": True, "hidden_size_per_layer_input": 0, "sliding_window": 16,
    "enable_moe_block": True, "num_experts": 8, "top_k_experts": 3, "final_logit_softcapping": 30.0,
    "max_position_embeddings": 1024, "bos_token_id": None, "eos_token_id": EOS, "pad_token_id": None,
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "": {},
    "_own_values_untied": {
        "attention_k_eq_v": False, "num_global_key_value_heads": None, "tie_word_embeddings": False,
        "num_hidden_layers": 3, "layer_types": [FULL, SLIDING, FULL], "final_logit_softcapping": None,
    },
    "_bias_low_cap": {
        "attention_bias": True, "final_logit_softcapping": 3.0, "num_hidden_layers": 3, "sliding_window": 5,
        "layer_types": [SLIDING, SLIDING, FULL], "hidden_size": 128, "num_key_value_heads": 4, "num_experts": 5,
        "top_k_experts": 5, "num_global_key_value_heads": 2,
    },
    "_other_ropes": {
        "num_hidden_layers": 4, "layer_types": [FULL, SLIDING, FULL, FULL], "global_head_dim": 48, "top_k_experts": 2,
        "num_attention_heads": 6, "num_key_value_heads": 3, "use_bidirectional_attention": "vision",
        "rope_parameters": {
            SLIDING: {"rope_type": "linear", "rope_theta": 5e3, "factor": 2.0},
            FULL: {"rope_type": "proportional", "rope_theta": 2e4, "partial_rotary_factor": 0.5, "factor": 4.0},
        },
    },
}  # fmt: skip


def _config(options: dict[str, Any]) -> PreTrainedConfig:
    from transformers import Gemma4TextConfig

    return Gemma4TextConfig(**{**TEXT, **options})


CASES = {f"gemma4_text{name}": lambda options=options: _config(options) for name, options in OPTIONS.items()}
