"""Cases of ernie4_5_moe: its default, sparse layers at intervals, tied embeddings without shared experts, YaRN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.rope import YARN
from families.tokenizer import EOS
from families.weights import normal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "Ernie4_5_MoeConfig"
WEIGHTS = ((r"e_score_correction_bias$", normal(0.0, 0.05)),)


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import Ernie4_5_MoeConfig

    base: dict[str, Any] = {
        "vocab_size": 300, "hidden_size": 96, "intermediate_size": 160, "moe_intermediate_size": 32,
        "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "moe_num_experts": 8, "moe_k": 3,
        "moe_num_shared_experts": 2, "max_position_embeddings": 1024, "bos_token_id": None, "eos_token_id": EOS,
        "tie_word_embeddings": False,
    }  # fmt: skip
    return Ernie4_5_MoeConfig(**{**base, **options})


CASES = {
    "ernie4_5_moe": _config,
    "ernie4_5_moe_interval": lambda: _config(
        num_hidden_layers=6, moe_layer_interval=2, moe_layer_start_index=1, moe_layer_end_index=4, moe_k=1
    ),
    "ernie4_5_moe_tied_no_shared": lambda: _config(
        tie_word_embeddings=True, moe_num_shared_experts=0, moe_layer_start_index=0, hidden_size=64,
        num_attention_heads=4, num_key_value_heads=4, moe_num_experts=16, moe_k=6,
    ),
    # the chosen experts' probabilities add up to less than this for some tokens
    "ernie4_5_moe_floor_yarn": lambda: _config(moe_norm_min=0.6, head_dim=24, **YARN),
}  # fmt: skip
