"""Cases of minimax_m2: its default, half of each head rotated, a quarter with YaRN, whole heads with tied embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.rope import YARN
from families.tokenizer import EOS
from families.weights import normal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "MiniMaxM2Config"
WEIGHTS = ((r"e_score_correction_bias$", normal(0.0, 0.1)),)


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import MiniMaxM2Config

    base: dict[str, Any] = {
        "vocab_size": 300, "hidden_size": 96, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32, "num_local_experts": 8,
        "num_experts_per_tok": 3, "max_position_embeddings": 1024, "bos_token_id": None, "eos_token_id": EOS,
    }  # fmt: skip
    return MiniMaxM2Config(**{**base, **options})


CASES = {
    "minimax_m2": _config,
    "minimax_m2_rotary_dim": lambda: _config(rotary_dim=16, num_local_experts=16, num_experts_per_tok=8),
    "minimax_m2_quarter_yarn": lambda: _config(
        num_key_value_heads=1, rope_parameters={**YARN["rope_parameters"], "partial_rotary_factor": 0.25}
    ),
    "minimax_m2_tied": lambda: _config(tie_word_embeddings=True, num_key_value_heads=6, num_experts_per_tok=1),
}  # fmt: skip
