"""Cases of mixtral: its default, sliding windows with tied embeddings, one expert a token, a large rope theta."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.rope import LLAMA3, rope
from families.tokenizer import EOS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "MixtralConfig"


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import MixtralConfig

    base: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 1024,
        "bos_token_id": None, "eos_token_id": EOS,
    }  # fmt: skip
    return MixtralConfig(**{**base, **options})


CASES = {
    "mixtral": _config,
    "mixtral_sliding_tied": lambda: _config(
        hidden_size=96, head_dim=32, num_attention_heads=4, num_key_value_heads=1, sliding_window=20,
        tie_word_embeddings=True, num_hidden_layers=3, **rope("linear", factor=2.0),
    ),
    "mixtral_top1_llama3": lambda: _config(
        hidden_size=192, intermediate_size=160, num_attention_heads=6, num_key_value_heads=6, num_experts_per_tok=1,
        **LLAMA3,
    ),
    "mixtral_large_theta": lambda: _config(
        head_dim=16, num_local_experts=8, num_hidden_layers=3, rms_norm_eps=1e-6, **rope("default", rope_theta=1e6)
    ),
}  # fmt: skip
