"""What llama.cpp's converter does to MLA, Mamba-2, Kimi Delta Attention and short convolutions, by reshaping, as it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np

from edge_runtime.base.arrays import F32

MAMBA = ("granitemoehybrid", "nemotron_h")
LATENT = ("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "kimi_linear")


def changed(tensors: Mapping[str, F32], config: Mapping[str, Any], *, joined: bool = False) -> dict[str, F32]:
    """Return tensors under transformers' names, or those the package's table has instead.

    Args:
        tensors: of the checkpoint.
        config: of the model.
        joined: leave what widens keys and values in one tensor, as files from before May 2025 do.
    """
    found: dict[str, F32] = {}
    for name, values in tensors.items():
        name = name.replace("e_score_correction_bias", "e_score_correction.bias").replace(
            ".expert_bias", ".expert_bias.bias"
        )
        if name.endswith(tuple(f"block_sparse_moe.{n}_proj.weight" for n in ("gate", "up", "down"))):
            name = name.replace("block_sparse_moe", "mlp")  # dense layers of kimi_linear
        if name.endswith("kv_b_proj.weight") and not joined:
            found |= _apart(name, values, config)
        elif config["model_type"] in (*MAMBA, "kimi_linear"):
            found |= _of_states(name, values, config)
        else:
            found[name] = values.squeeze(1) if "conv.conv" in name and values.ndim == 3 else values
    return found


def _apart(name: str, values: F32, config: Mapping[str, Any]) -> dict[str, F32]:
    """Keys' and values' matrices of each head in tensors of their own, keys' transposed."""
    by_head = values.reshape(config["num_attention_heads"], -1, values.shape[1])
    keys, rest = np.split(by_head, [config["qk_nope_head_dim"]], axis=1)
    return {name.replace("kv_b_proj", "k_b_proj"): keys.swapaxes(1, 2), name.replace("kv_b_proj", "v_b_proj"): rest}


def _of_states(name: str, values: F32, config: Mapping[str, Any]) -> dict[str, F32]:
    kimi = config["model_type"] == "kimi_linear"
    if name.endswith(".A_log"):
        return {name: -np.exp(values.reshape((1, 1, -1, 1) if kimi else (-1, 1)))}
    if name.endswith(".dt_bias"):
        return {name.replace(".dt_bias", ".dt_proj.bias"): values}
    if "conv1d.weight" in name:
        shape = (1, values.shape[0], 1, values.shape[-1]) if kimi else (values.shape[0], values.shape[-1])
        return {name: values.reshape(shape)}
    if name.endswith(".D"):
        return {name: values.reshape(-1, 1)}
    if name.endswith(("mamba.norm.weight", "mixer.norm.weight")):
        groups = config.get("n_groups") or config["mamba_n_groups"]
        return {name: values.reshape(groups, -1)}
    return {name: values}


def add_sizes(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    """Write the sizes of MLA and of recurrences."""
    family = config["model_type"]
    if family in LATENT:
        rank, turned = config["kv_lora_rank"], config["qk_rope_head_dim"]
        writer.add_kv_lora_rank(rank)
        if config["q_lora_rank"] is not None:
            writer.add_q_lora_rank(config["q_lora_rank"])
        writer.add_rope_dimension_count(turned)
        writer.add_key_length(rank + turned)
        writer.add_value_length(rank)
        writer.add_key_length_mla(config["qk_nope_head_dim"] + turned)
        writer.add_value_length_mla(config["v_head_dim"])
    if family == "kimi_linear":
        writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
        writer.add_kda_head_dim(config["linear_head_dim"])
    if family == "lfm2_moe":
        writer.add_shortconv_l_cache(config["conv_L_cache"])
    if family == "granitemoehybrid":
        _add_mamba(writer, config, [f"mamba_{n}" for n in ("d_conv", "d_state", "n_groups", "n_heads", "d_head")])
        writer.add_rope_scaling_finetuned(config.get("position_embedding_type") == "rope")
    if family == "nemotron_h":
        names = ["conv_kernel", "ssm_state_size", "n_groups", "mamba_num_heads", "mamba_head_dim"]
        _add_mamba(writer, config, names)
        writer.add_feed_forward_length(
            [config["moe_intermediate_size"] if kind == "moe" else 0 for kind in config["layers_block_type"]]
        )
        writer.add_expert_shared_feed_forward_length(config["moe_shared_expert_intermediate_size"])


def _add_mamba(writer: gguf.GGUFWriter, config: Mapping[str, Any], names: list[str]) -> None:
    kernel, state, groups, heads, width = (config[name] for name in names)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_state_size(state)
    writer.add_ssm_group_count(groups)
    writer.add_ssm_time_step_rank(heads)
    writer.add_ssm_inner_size(
        heads * (config["mamba_expand"] * config["hidden_size"] // heads if width == "auto" else width)
    )


def kv_heads(config: Mapping[str, Any]) -> int | list[int]:
    """Return heads of keys: one number, or one a layer where some layers have none."""
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    if config["model_type"] in LATENT:
        heads = 1
    kinds = config.get("layers_block_type") or config.get("layer_types")
    if config["model_type"] not in (*MAMBA, "kimi_linear", "lfm2_moe"):
        return heads
    assert kinds is not None
    return [heads if kind in ("full_attention", "attention") else 0 for kind in kinds]
