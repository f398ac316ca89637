"""The sizes of a model as keys of a GGUF file, as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gguf
import gguf_gemma as gemma
import gguf_recurrent as recurrent


def add_sizes(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    """Write the keys that all architectures have, and those of one."""
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    if "intermediate_size" in config:
        writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    kv_heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    if config["model_type"] == "gemma4_text":
        gemma.add_sizes(writer, config)
    else:
        writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config.get("rms_norm_eps", 1e-6))
    writer.add_expert_count(config.get("num_local_experts") or config["num_experts"])
    writer.add_expert_used_count(config.get("num_experts_per_tok") or config["top_k_experts"])
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10000.0)}
    rope = rope.get("full_attention", rope)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope.get("rope_type", "default") in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope.get("rope_type") == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(rope.get("beta_fast", 32.0))
        writer.add_rope_scaling_yarn_beta_slow(rope.get("beta_slow", 1.0))
    _add_options(writer, config, rope)


def _add_options(writer: gguf.GGUFWriter, config: Mapping[str, Any], rope: Mapping[str, Any]) -> None:
    """Write what only some configurations have."""
    if config.get("head_dim") and "global_head_dim" not in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    for key, add in (
        ("moe_intermediate_size", writer.add_expert_feed_forward_length),
        ("shared_expert_intermediate_size", writer.add_expert_shared_feed_forward_length),
        ("sliding_window", writer.add_sliding_window),
        ("shared_intermediate_size", writer.add_expert_shared_feed_forward_length),
        ("clip_qkv", writer.add_clamp_kqv),
        ("attention_multiplier", writer.add_attention_scale),
        ("embedding_multiplier", writer.add_embedding_scale),
        ("residual_multiplier", writer.add_residual_scale),
        ("logits_scaling", writer.add_logit_scale),
    ):
        if config.get(key) and (
            key != "sliding_window" or config["model_type"] in ("gemma4_text", "gpt_oss", "mixtral")
        ):
            add(config[key])
    if "linear_conv_kernel_dim" in config:
        recurrent.add_sizes(writer, config)
    if config["model_type"] == "qwen3_vl_moe":
        third = config["head_dim"] // 6
        plain = [config["head_dim"] // 2 - 2 * third, third, third]
        writer.add_rope_dimension_sections([*rope.get("mrope_section", plain), 0])
        writer.add_num_deepstack_layers(1)
    if config["model_type"] == "gpt_oss":
        writer.add_expert_feed_forward_length(config["intermediate_size"])
