"""What llama.cpp's converter does to Qwen3-Next and Qwen3.5 MoE, by reshaping, as it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np

from edge_runtime.base.arrays import F32


def changed(tensors: Mapping[str, F32], config: Mapping[str, Any]) -> dict[str, F32]:
    """Return tensors under transformers' names, or those the package's table has instead."""
    found: dict[str, F32] = {}
    for name, values in tensors.items():
        if config["model_type"] == "qwen3_5_moe_text" and ".linear_attn." in name:
            values = _tiled(name.split(".linear_attn.")[1], values, config)
        if name.endswith(".A_log"):
            values = -np.exp(values)
        elif name.endswith(".dt_bias"):
            name = name.replace(".dt_bias", ".dt_proj.bias")
        elif "conv1d" in name:
            values = values.squeeze()
        elif name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
            values = values + np.float32(1)
        if "in_proj_qkvz" in name:
            found |= _split(name, values, config)
        else:
            found[name] = values
    return found


def _split(name: str, values: F32, config: Mapping[str, Any]) -> dict[str, F32]:
    """Queries, keys and values of all heads one after the other, and the gates of values apart."""
    keys, key_dim = config["linear_num_key_heads"], config["linear_key_head_dim"]
    group = config["linear_num_value_heads"] // keys * config["linear_value_head_dim"]
    by_head = values.reshape(keys, 2 * key_dim + 2 * group, -1)
    ends = np.cumsum([key_dim, key_dim, group])
    q, k, v, z = (part.reshape(-1, values.shape[1]) for part in np.split(by_head, ends, axis=1))
    return {name.replace("qkvz", "qkv"): np.concatenate([q, k, v]), name.replace("qkvz", "z"): z}


def _tiled(name: str, values: F32, config: Mapping[str, Any]) -> F32:
    """Value heads ordered by their number below a key head, not by key head."""
    keys, heads, dim = (config[f"linear_{n}"] for n in ("num_key_heads", "num_value_heads", "value_head_dim"))
    first = 2 * keys * config["linear_key_head_dim"] if name.startswith(("in_proj_qkv", "conv1d")) else 0

    def tiled(part: F32, size: int) -> F32:
        return part.reshape(keys, heads // keys, size, *part.shape[1:]).swapaxes(0, 1).reshape(part.shape)

    if name.startswith("out_proj"):
        return tiled(np.ascontiguousarray(values.T), dim).T
    if name.startswith(("in_proj_a", "in_proj_b", "A_log", "dt_bias")):
        return tiled(values, 1)
    return values if name.startswith("norm") else np.concatenate([values[:first], tiled(values[first:], dim)])


def add_sizes(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    """Write the recurrence's sizes."""
    writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
    writer.add_ssm_state_size(config["linear_key_head_dim"])
    writer.add_ssm_group_count(config["linear_num_key_heads"])
    writer.add_ssm_time_step_rank(config["linear_num_value_heads"])
    writer.add_ssm_inner_size(config["linear_value_head_dim"] * config["linear_num_value_heads"])
    writer.add_uint32(f"{writer.arch}.full_attention_interval", 4)
    share = config["rope_parameters"]["partial_rotary_factor"]
    writer.add_rope_dimension_count(int(config["head_dim"] * share))
