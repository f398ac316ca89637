"""Cases of phimoe: its default, longrope with all biases as published, a window with a wide tolerance, tied embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.rope import rope
from families.tokenizer import EOS
from families.weights import normal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "PhimoeConfig"
WEIGHTS = ((r"norm\.bias$", normal(0.0, 0.3)),)


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import PhimoeConfig

    base: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_local_experts": 4, "max_position_embeddings": 1024, "bos_token_id": None,
        "eos_token_id": EOS,
    }  # fmt: skip
    return PhimoeConfig(**{**base, **options})


def longrope(dim: int, original: int) -> dict[str, Any]:
    """Factors of a head with `dim` rotated numbers, as published: close to 1 for fast numbers, large for slow ones."""
    short, long = ([1 + scale * (i / dim) ** 2 for i in range(dim // 2)] for scale in (2.0, 60.0))
    parameters = rope(
        "longrope", short_factor=short, long_factor=long, short_mscale=1.2, long_mscale=1.3,
        original_max_position_embeddings=original,
    )  # fmt: skip
    return {**parameters, "original_max_position_embeddings": original}


CASES = {
    "phimoe": _config,
    "phimoe_longrope_biases": lambda: _config(
        hidden_size=128, num_attention_heads=4, num_key_value_heads=1, attention_bias=True, lm_head_bias=True,
        num_local_experts=16, num_hidden_layers=3, sliding_window=1024, **longrope(32, 256),
    ),
    "phimoe_window_rivals": lambda: _config(
        hidden_size=96, num_attention_heads=6, num_key_value_heads=6, num_local_experts=8, router_jitter_noise=0.2,
        sliding_window=20, attention_bias=True,
    ),
    "phimoe_tied": lambda: _config(
        hidden_size=128, num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True, num_local_experts=8,
        lm_head_bias=True, **longrope(32, 512),
    ),
}  # fmt: skip
