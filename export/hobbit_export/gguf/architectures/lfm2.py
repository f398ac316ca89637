"""LFM2 with experts: short convolutions between layers of attention."""

from __future__ import annotations

from typing import Any

from hobbit_export.gguf.architectures.deepseek import CHOICE
from hobbit_export.gguf.architectures.family import Family, taps
from hobbit_export.gguf.common import HEAD, ModelKeys, head_dim, heads_of_keys, layers_with, rope, sizes


def _read(found: ModelKeys) -> dict[str, Any]:
    keys, config = found.keys, sizes(found)
    keys.fixed("expert_gating_func", 2)  # sigmoid
    keys.fixed("attention.key_length", head_dim(config))
    keys.fixed("attention.value_length", head_dim(config))
    config["norm_eps"] = config.pop("rms_norm_eps")
    convolutions = layers_with(found, "shortconv.conv.weight")
    kv_heads = heads_of_keys(found, layers_with(found, "attn_k.weight"))
    normalised = keys.flag("expert_weights_norm")
    return config | rope(keys, head_dim(config)) | {
        "num_key_value_heads": kv_heads or config["num_attention_heads"],
        "intermediate_size": keys.required("feed_forward_length"),
        "moe_intermediate_size": keys.required("expert_feed_forward_length"),
        "num_experts": keys.required("expert_count"),
        "num_experts_per_tok": keys.required("expert_used_count"),
        "num_dense_layers": keys.count("leading_dense_block_count") or 0,
        "layer_types": ["conv" if i in convolutions else "full_attention" for i in range(config["num_hidden_layers"])],
        "conv_L_cache": keys.required("shortconv.l_cache"),
        "conv_bias": bool(layers_with(found, "shortconv.conv.bias")),
        "use_expert_bias": bool(layers_with(found, "exp_probs_b.bias")),
        "norm_topk_prob": True if normalised is None else normalised,  # as llama.cpp computes
        "routed_scaling_factor": keys.number("expert_weights_scale") or 1.0,
    }  # fmt: skip


FAMILIES = {"lfm2moe": Family("lfm2_moe", _read, {"conv": taps}, {**CHOICE, "head": HEAD})}
