"""Cases of hunyuan_v1_moe: its default, a stretched rope base, lists of one entry a layer, dynamic rope."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.rope import rope
from families.tokenizer import EOS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "HunYuanMoEV1Config"
WEIGHTS = ((r"mlp\.gate\.wg\.weight$", lambda tensor, tied: tensor.normal_(0.0, 4.0 / tensor.shape[-1] ** 0.5)),)


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import HunYuanMoEV1Config

    base: dict[str, Any] = {
        "vocab_size": 300, "hidden_size": 96, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "num_experts": 8, "moe_topk": 3,
        "max_position_embeddings": 1024, "pad_token_id": None, "bos_token_id": None, "eos_token_id": EOS,
    }  # fmt: skip
    return HunYuanMoEV1Config(**{**base, **options})


CASES = {
    "hunyuan_v1_moe": _config,
    "hunyuan_v1_moe_alpha_tied": lambda: _config(
        tie_word_embeddings=True, moe_topk=[4, 4, 4], num_hidden_layers=3,
        **rope("dynamic", alpha=1000.0, factor=1.0, beta_fast=32, beta_slow=1, mscale=1.0, mscale_all_dim=1.0),
    ),
    "hunyuan_v1_moe_bias": lambda: _config(attention_bias=True, moe_topk=1, num_key_value_heads=None, head_dim=24),
    "hunyuan_v1_moe_dynamic": lambda: _config(
        max_position_embeddings=48, num_experts=16, moe_topk=8, **rope("dynamic", factor=2.0)
    ),
}  # fmt: skip
