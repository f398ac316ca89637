"""The sizes of a model as keys of a GGUF file, as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gguf
import gguf_gemma as gemma
import gguf_hybrids as hybrids
import gguf_recurrent as recurrent
import gguf_routed as routed
from gguf_routed import first, rope_of


def add_sizes(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    """Write the keys that all architectures have, and those of one."""
    writer.add_block_count(first(config, "num_hidden_layers") or len(config["layers_block_type"]))
    writer.add_context_length(first(config, "max_position_embeddings", "model_max_length"))
    writer.add_embedding_length(config["hidden_size"])
    if "intermediate_size" in config and config["model_type"] != "nemotron_h":
        writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    if config["model_type"] == "gemma4_text":
        gemma.add_sizes(writer, config)
    else:
        writer.add_head_count_kv(hybrids.kv_heads(config))
    writer.add_layer_norm_rms_eps(first(config, "rms_norm_eps", "norm_eps", "layer_norm_epsilon") or 1e-6)
    writer.add_expert_count(first(config, "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"))
    writer.add_expert_used_count(
        first(config, "moe_topk", "moe_k", "num_experts_per_tok", "num_experts_per_token", "top_k_experts")
    )
    rope = rope_of(config)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope.get("rope_type", "default") in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope.get("rope_type") == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(rope.get("beta_fast", 32.0))
        writer.add_rope_scaling_yarn_beta_slow(rope.get("beta_slow", 1.0))
    _add_options(writer, config, rope)
    hybrids.add_sizes(writer, config)
    routed.add_sizes(writer, config)
    routed.add_rope(writer, config, rope)


def _add_options(writer: gguf.GGUFWriter, config: Mapping[str, Any], rope: Mapping[str, Any]) -> None:
    """Write what only some configurations have."""
    if config.get("head_dim") and "global_head_dim" not in config and config["model_type"] not in hybrids.LATENT:
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
            key != "sliding_window" or config["model_type"] in ("gemma4_text", "gpt_oss", "mixtral", "phimoe")
        ):
            add(config[key])
    if "linear_conv_kernel_dim" in config and config["model_type"] != "kimi_linear":
        recurrent.add_sizes(writer, config)
    if config["model_type"] == "qwen3_vl_moe":
        third = config["head_dim"] // 6
        plain = [config["head_dim"] // 2 - 2 * third, third, third]
        writer.add_rope_dimension_sections([*rope.get("mrope_section", plain), 0])
        writer.add_num_deepstack_layers(1)
    if config["model_type"] == "gpt_oss":
        writer.add_expert_feed_forward_length(config["intermediate_size"])
