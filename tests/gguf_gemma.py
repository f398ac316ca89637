"""What llama.cpp's converter does to Gemma 4 with experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np

from edge_runtime.base.arrays import F32


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """Put the heads of layers that see all tokens where published configurations have them."""
    own = next(iter((config.get("per_layer_config") or {}).values()), None)
    if own is None:
        return config
    return {**config, "global_head_dim": own["head_dim"], "num_global_key_value_heads": own.get("num_key_value_heads")}


def renamed(tensors: Mapping[str, F32], config: Mapping[str, Any]) -> dict[str, F32]:
    """Return tensors with the suffixes the package's table has, scales under their GGUF names, and factors of the rope."""
    found: dict[str, F32] = {}
    for name, values in tensors.items():
        layer = name.split(".layers.")[-1].split(".")[0]
        if name.endswith("router.scale"):
            found[f"blk.{layer}.ffn_gate_inp.scale"] = values
        elif name.endswith("per_expert_scale"):
            found[f"blk.{layer}.ffn_down_exps.scale"] = values
        else:
            bare = name.endswith(("layer_scalar", "experts.gate_up_proj", "experts.down_proj"))
            found[f"{name}.weight" if bare else name] = values
    factor = config["rope_parameters"]["full_attention"]["partial_rotary_factor"]
    turned, pairs = int(config["global_head_dim"] * factor / 2), config["global_head_dim"] // 2
    found["rope_freqs.weight"] = np.array([1.0] * turned + [1e30] * (pairs - turned), np.float32)
    return found


def add_sizes(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    """Write what differs by kind of layer."""
    sliding = [kind == "sliding_attention" for kind in config["layer_types"]]
    writer.add_sliding_window_pattern(sliding)
    full = config["num_global_key_value_heads"] if config["attention_k_eq_v"] else None
    writer.add_head_count_kv([config["num_key_value_heads"] if s or full is None else full for s in sliding])
    for add, dim in (
        (writer.add_key_length, "global_head_dim"), (writer.add_value_length, "global_head_dim"),
        (writer.add_key_length_swa, "head_dim"), (writer.add_value_length_swa, "head_dim"),
        (writer.add_rope_dimension_count, "global_head_dim"), (writer.add_rope_dimension_count_swa, "head_dim"),
    ):  # fmt: skip
        add(config[dim])
    writer.add_float32(
        f"{writer.arch}.rope.freq_base_swa", config["rope_parameters"]["sliding_attention"]["rope_theta"]
    )
    writer.add_shared_kv_layers(0)
    writer.add_embedding_length_per_layer_input(0)
    if config["final_logit_softcapping"]:
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
