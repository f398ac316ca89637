"""Cases of olmoe: its default, clipped and biased projections, 8 of 24 experts, one head of keys with YaRN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.rope import YARN
from families.tokenizer import EOS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "OlmoeConfig"


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import OlmoeConfig

    base: dict[str, Any] = {
        "vocab_size": 257, "hidden_size": 96, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 3,
        "num_key_value_heads": 3, "num_experts": 8, "num_experts_per_tok": 3, "max_position_embeddings": 1024,
        "pad_token_id": None, "eos_token_id": EOS,
    }  # fmt: skip
    return OlmoeConfig(**{**base, **options})


CASES = {
    "olmoe": _config,
    "olmoe_clip_bias": lambda: _config(
        clip_qkv=0.9, attention_bias=True, num_attention_heads=4, num_key_value_heads=2, hidden_size=128,
        norm_topk_prob=True, tie_word_embeddings=True,
    ),
    "olmoe_many_experts": lambda: _config(
        hidden_size=64, num_attention_heads=2, num_key_value_heads=2, intermediate_size=32, num_experts=24,
        num_experts_per_tok=8, num_hidden_layers=3,
    ),
    "olmoe_one_key_head_yarn": lambda: _config(num_key_value_heads=1, num_experts_per_tok=1, intermediate_size=96, **YARN),
}  # fmt: skip
