"""Gemma 4 with experts: layers of two kinds, with heads and ropes of their own."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from edge_runtime.base.errors import ConfigError
from hobbit_export.arch.names import LeftOut
from hobbit_export.gguf.architectures.family import Family, has_bias
from hobbit_export.gguf.common import ModelKeys, heads_of_keys, sizes
from hobbit_export.gguf.keys import without_none

_FACTORS, _MOST_FACTORS = "rope_freqs.weight", 1 << 14
_OWN = {"router_norm": "ffn_gate_inp.scale", "router_expert_scale": "ffn_down_exps.scale"}
_LEFT_OUT = LeftOut(re.compile(re.escape(_FACTORS)), "factors of the rope, which its share of a head says as well")


def _read(found: ModelKeys) -> dict[str, Any]:
    keys, config = found.keys, sizes(found)
    layers = config["num_hidden_layers"]
    sliding = keys.by_layer("attention.sliding_window_pattern", layers)
    if sliding is None:
        raise ConfigError(
            f"{keys.where}: attention.sliding_window_pattern: expected true or false a layer, got nothing."
        )
    full_dim, sliding_dim = keys.required("attention.key_length"), keys.required("attention.key_length_swa")
    keys.fixed("attention.value_length", full_dim)
    keys.fixed("attention.value_length_swa", sliding_dim)
    keys.fixed("attention.shared_kv_layers", 0)
    keys.fixed("embedding_length_per_layer_input", 0)
    keys.fixed("rope.dimension_count", full_dim)
    keys.fixed("rope.dimension_count_swa", sliding_dim)
    full = [i for i, each in enumerate(sliding) if not each]
    return config | without_none({
        "layer_types": ["sliding_attention" if each else "full_attention" for each in sliding],
        "head_dim": sliding_dim,
        "global_head_dim": full_dim,
        "num_key_value_heads": heads_of_keys(found, [i for i, each in enumerate(sliding) if each]),
        "num_global_key_value_heads": heads_of_keys(found, full),
        "attention_k_eq_v": bool(full) and f"blk.{full[0]}.attn_v.weight" not in found.tensors,
        "attention_bias": has_bias(found),
        "sliding_window": keys.count("attention.sliding_window"),
        "final_logit_softcapping": keys.number("final_logit_softcapping"),
        "hidden_size_per_layer_input": 0,
        "enable_moe_block": True,
        "num_experts": keys.required("expert_count"),
        "top_k_experts": keys.required("expert_used_count"),
        "moe_intermediate_size": keys.required("expert_feed_forward_length"),
        "intermediate_size": keys.required("feed_forward_length"),
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": keys.number("rope.freq_base_swa") or 1e4},
            "full_attention": {
                "rope_type": "proportional", "rope_theta": keys.number("rope.freq_base") or 1e6,
                "partial_rotary_factor": _rotated(found, full_dim),
            },
        },
    })  # fmt: skip


def _rotated(found: ModelKeys, head_dim: int) -> float:
    """Share of a head that is turned: the pairs whose angles are divided by 1; of others it is by a huge number."""
    tensor = found.tensors.get(_FACTORS)
    if tensor is None:
        return 1.0
    if tensor.shape != (head_dim // 2,) or tensor.dtype != "F32" or head_dim > _MOST_FACTORS:
        raise ConfigError(f"{found.keys.where}: tensor {_FACTORS!r}: expected {head_dim // 2} numbers in F32.")
    factors = found.numbers(_FACTORS)
    turned = int(np.count_nonzero(factors == 1))
    if not (factors[:turned] == 1).all() or not (factors[turned:] >= 1e20).all():
        raise ConfigError(f"{found.keys.where}: tensor {_FACTORS!r}: expected ones, and then huge numbers.")
    return 2 * turned / head_dim


FAMILIES = {"gemma4": Family("gemma4_text", _read, {}, _OWN, left_out=(_LEFT_OUT,))}
