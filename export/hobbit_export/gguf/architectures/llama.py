"""Mixtral and its relatives: the `llama` architecture with experts, OLMoE, Granite 3 MoE."""

from __future__ import annotations

from typing import Any

from hobbit_export.gguf.architectures.family import HEADS, Family, has_bias, plain
from hobbit_export.gguf.common import ModelKeys
from hobbit_export.gguf.keys import Keys, without_none

SHARED = {f"shared_{name}_proj": f"ffn_{name}_shexp.weight" for name in ("gate", "up", "down")}


def _mixtral(found: ModelKeys) -> dict[str, Any]:
    config = plain(found)
    config["num_local_experts"] = found.keys.required("expert_count")
    dense = found.keys.required("feed_forward_length")
    config["intermediate_size"] = found.keys.count("expert_feed_forward_length") or dense
    config["sliding_window"] = found.keys.count("attention.sliding_window") or None
    found.keys.fixed("expert_weights_norm", True)
    return config


def _olmoe(found: ModelKeys) -> dict[str, Any]:
    config = plain(found)
    config["num_experts"] = found.keys.required("expert_count")
    config["norm_topk_prob"] = False
    config["intermediate_size"] = found.keys.required("feed_forward_length")
    config["attention_bias"] = has_bias(found)
    config["clip_qkv"] = found.keys.number("attention.clamp_kqv") or None
    found.keys.fixed("expert_weights_norm", False)
    return config


def _granite(found: ModelKeys) -> dict[str, Any]:
    config, keys = plain(found), found.keys
    config["num_local_experts"] = keys.required("expert_count")
    config["intermediate_size"] = keys.required("feed_forward_length")
    config["attention_bias"] = has_bias(found)
    shared = keys.count("expert_shared_feed_forward_length")
    return config | multipliers(keys) | without_none({
        "shared_intermediate_size": shared or None,
        "model_type": "granitemoeshared" if shared else "granitemoe",
    })  # fmt: skip


def multipliers(keys: Keys) -> dict[str, Any]:
    """Read what Granite multiplies by."""
    return without_none({
        "attention_multiplier": keys.number("attention.scale"),
        "embedding_multiplier": keys.number("embedding_scale"),
        "residual_multiplier": keys.number("residual_scale"),
        "logits_scaling": keys.number("logit_scale"),
    })  # fmt: skip


FAMILIES = {
    "llama": Family("mixtral", _mixtral, HEADS),
    "olmoe": Family("olmoe", _olmoe),
    "granitemoe": Family("granitemoe", _granite, HEADS, SHARED, also=("granitemoeshared",)),
}
