"""Cases of granitemoe: its default, published multipliers, biases with tied embeddings, llama3's rope."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.rope import LLAMA3
from families.tokenizer import EOS
from families.weights import by_fan_in

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "GraniteMoeConfig"
MULTIPLIERS = {
    "embedding_multiplier": 12.0, "logits_scaling": 6.0, "residual_multiplier": 0.22, "attention_multiplier": 0.015625,
}  # fmt: skip
# scores keep their spread under the published multiplier, and so do logits
WEIGHTS = ((r"self_attn\.[qk]_proj\.weight$", by_fan_in(3.0)), (r"lm_head", by_fan_in(24.0)))


BASE: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 96, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "num_local_experts": 8, "num_experts_per_tok": 3, "max_position_embeddings": 1024,
    "bos_token_id": None, "eos_token_id": EOS, "attention_multiplier": 0.09,
}  # fmt: skip


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import GraniteMoeConfig

    return GraniteMoeConfig(**{**BASE, **options})


CASES = {
    "granitemoe": _config,
    "granitemoe_multipliers": lambda: _config(**MULTIPLIERS),
    "granitemoe_bias_tied": lambda: _config(
        **MULTIPLIERS, attention_bias=True, tie_word_embeddings=True, num_experts_per_tok=1, num_key_value_heads=None
    ),
    "granitemoe_llama3": lambda: _config(
        **{**MULTIPLIERS, "logits_scaling": 0.5, "residual_multiplier": 1.5}, **LLAMA3, num_local_experts=20,
        num_experts_per_tok=8, hidden_size=128, num_attention_heads=4,
    ),
}  # fmt: skip
