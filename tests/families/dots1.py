"""Cases of dots1: as published, late windows, windows by layer type with groups, biases with tied embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.tokenizer import EOS
from families.weights import by_fan_in, normal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "Dots1Config"
# logits for which a sigmoid is not flat
WEIGHTS = ((r"e_score_correction_bias$", normal(0.0, 0.1)), (r"mlp\.gate\.weight$", by_fan_in(2.0)))
# the class has no number of experts, of experts a token, or of shared ones
REQUIRED = {"num_experts_per_tok": 6, "n_routed_experts": 128, "n_shared_experts": 2}


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import Dots1Config

    base: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 64, "intermediate_size": 112, "moe_intermediate_size": 32,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "n_shared_experts": 2,
        "n_routed_experts": 16, "num_experts_per_tok": 4, "first_k_dense_replace": 1, "norm_topk_prob": True,
        "routed_scaling_factor": 2.5, "sliding_window": None, "max_position_embeddings": 1024, "eos_token_id": EOS,
    }  # fmt: skip
    return Dots1Config(**{**base, **options})


CASES = {
    "dots1": _config,
    "dots1_late_windows": lambda: _config(
        sliding_window=20, max_window_layers=2, num_hidden_layers=4, num_key_value_heads=2, head_dim=32
    ),
    "dots1_windows_groups": lambda: _config(
        sliding_window=12, layer_types=["sliding_attention", "full_attention"], num_hidden_layers=2, n_group=4,
        topk_group=2, first_k_dense_replace=0, n_shared_experts=1,
    ),
    "dots1_biases_tied": lambda: _config(
        attention_bias=True, tie_word_embeddings=True, hidden_size=128, num_key_value_heads=1, norm_topk_prob=False,
        num_hidden_layers=2, routed_scaling_factor=1.0,
    ),
}  # fmt: skip
