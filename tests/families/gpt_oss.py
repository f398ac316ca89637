"""Cases of gpt_oss: windows in every other layer or as listed, YaRN as published and truncated, other SwiGLU limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.rope import rope
from families.tokenizer import EOS
from families.weights import by_fan_in, normal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "GptOssConfig"
# sinks as large as the scores beside them; inner activations of experts large enough for low clamps to bite
WEIGHTS = ((r"sinks$", normal(1.0, 1.0)), (r"gate_up_proj$", by_fan_in(2.0)))


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import GptOssConfig

    base: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 96, "intermediate_size": 96, "num_hidden_layers": 3, "head_dim": 16,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 8, "num_experts_per_tok": 4,
        "sliding_window": 16, "max_position_embeddings": 1024, "eos_token_id": EOS,
        **rope("yarn", rope_theta=150000.0, factor=8.0, beta_fast=32.0, beta_slow=1.0, truncate=False,
               original_max_position_embeddings=128),
    }  # fmt: skip
    return GptOssConfig(**{**base, **options})


CASES = {
    "gpt_oss": _config,
    "gpt_oss_default_rope_tied": lambda: _config(
        hidden_size=128, head_dim=32, num_key_value_heads=1, tie_word_embeddings=True, swiglu_limit=1.5,
        swiglu_alpha=1.0, **rope("default"),
    ),
    "gpt_oss_all_full_truncated": lambda: _config(
        num_attention_heads=8, num_key_value_heads=8, num_experts_per_tok=3, layer_types=["full_attention"] * 3,
        **rope("yarn", factor=4.0, original_max_position_embeddings=256, truncate=True),
    ),
    "gpt_oss_no_attention_bias": lambda: _config(
        attention_bias=False, intermediate_size=160, num_local_experts=5, num_experts_per_tok=2, num_hidden_layers=2,
        layer_types=["full_attention", "sliding_attention"], sliding_window=5,
    ),
}  # fmt: skip
