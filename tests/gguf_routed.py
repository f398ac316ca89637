"""Keys of GGUF files about experts and ropes of families with shared experts, dense layers or sigmoid routers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gguf

SIGMOID = ("deepseek_v3", "glm4_moe", "glm4_moe_lite", "dots1", "minimax_m2", "lfm2_moe", "kimi_linear")
DEEPSEEK = ("deepseek_v2", "deepseek_v3", "glm4_moe", "glm4_moe_lite", "dots1", "kimi_linear", "nemotron_h")


def first(config: Mapping[str, Any], *keys: str) -> Any:
    """Return the value of the first key that is there, of a list its first number."""
    value = next((config[key] for key in keys if config.get(key) is not None), None)
    return value[0] if isinstance(value, list) else value


def add_sizes(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    """Write them."""
    family = config["model_type"]
    if family in SIGMOID:
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if family in DEEPSEEK:
        writer.add_expert_shared_count(first(config, "n_shared_experts", "num_shared_experts"))
        writer.add_expert_weights_scale(config["routed_scaling_factor"])
        writer.add_expert_weights_norm(bool(first(config, "norm_topk_prob", "moe_renormalize")))
        groups = first(config, "n_group", "num_expert_group")
        if groups is not None:
            writer.add_expert_group_count(groups)
            writer.add_expert_group_used_count(config["topk_group"])
    dense = _dense(config)
    if dense is not None:
        writer.add_leading_dense_block_count(dense)
    if family == "lfm2_moe":
        writer.add_expert_weights_scale(config["routed_scaling_factor"])
        writer.add_expert_weights_norm(config["norm_topk_prob"])
    elif family == "ernie4_5_moe":
        writer.add_interleave_moe_layer_step(config["moe_layer_interval"])
        writer.add_expert_shared_count(config["moe_num_shared_experts"])
        writer.add_expert_shared_feed_forward_length(77)  # what converters write is nothing of the model
    elif family == "hunyuan_v1_moe":
        writer.add_expert_feed_forward_length(config["intermediate_size"])
        writer.add_expert_shared_feed_forward_length(config["intermediate_size"])
        writer.add_expert_shared_count(1)
    elif family == "minimax_m2":
        writer.add_expert_feed_forward_length(config["intermediate_size"])


def add_rope(writer: gguf.GGUFWriter, config: Mapping[str, Any], rope: Mapping[str, Any]) -> None:
    """Write how much of a head is turned, and by which factors."""
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    share = rope.get("partial_rotary_factor")
    if config["model_type"] in ("glm4_moe", "minimax_m2"):
        writer.add_rope_dimension_count(int(head_dim * (0.5 if share is None else share)))
    if rope.get("mscale_all_dim") is not None:
        writer.add_rope_scaling_yarn_log_mul(0.1 * rope["mscale_all_dim"])
    if rope.get("rope_type") == "longrope":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_attn_factors(rope["short_mscale"])


def rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotary options that a file holds: the base instead of what stretches it."""
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10000.0)}
    rope = dict(rope.get("full_attention", rope))
    if rope.get("rope_type") == "dynamic" and rope.get("alpha"):
        dim = config["head_dim"]
        rope = {"rope_theta": rope["rope_theta"] * rope["alpha"] ** (dim / (dim - 2)), "rope_type": "none"}
    return rope


def _dense(config: Mapping[str, Any]) -> int | None:
    """How many layers are dense, before the first that routes."""
    kinds = config.get("mlp_layer_types")
    if kinds is not None:
        return kinds.index("sparse")
    return first(config, "first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
