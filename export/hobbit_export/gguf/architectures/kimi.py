"""Kimi-Linear: Kimi Delta Attention between layers of MLA without rope."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from hobbit_export.arch.names import Named
from hobbit_export.gguf.architectures.deepseek import CHOICE, LATENT, LATENT_BEFORE, UNDO_LATENT, latent, routed
from hobbit_export.gguf.architectures.family import Family, Undo, taps
from hobbit_export.gguf.common import ModelKeys, layers_with, scaling, sizes
from hobbit_export.gguf.undo import log_of_negative, with_shape
from hobbit_export.weights import Weight

_TENSORS: dict[str, Named] = {**LATENT, **CHOICE, "dt_bias": "ssm_dt.bias", "a_log": "ssm_a"}


def _decay(weight: Weight, config: Mapping[str, Any]) -> Weight:
    """Undo -exp; files that were quantised have lost dimensions of 1."""
    return with_shape(log_of_negative(weight), 1, 1, prod(weight.shape), 1)


_UNDO: dict[str, Undo] = {**UNDO_LATENT, **{f"conv_{n}": taps for n in "qkv"}, "a_log": _decay}


def _read(found: ModelKeys) -> dict[str, Any]:
    keys, config = found.keys, sizes(found)
    keys.fixed("expert_gating_func", 2)  # sigmoid
    keys.number("rope.freq_base")  # nothing is rotated
    scaling(keys)
    linear = layers_with(found, "ssm_a")
    head_dim = keys.required("kda.head_dim")
    rows = found.rows(f"blk.{linear[0]}.attn_q.weight") if linear else head_dim
    if not rows or rows % head_dim:
        raise keys.refuse("kda.head_dim", head_dim, f"Queries have {rows} rows.")
    experts = routed(found)
    if keys.flag("expert_weights_norm") is None:
        experts["norm_topk_prob"] = True  # as llama.cpp computes
    return config | experts | latent(found) | {
        "linear_head_dim": head_dim,
        "linear_num_heads": rows // head_dim,
        "linear_conv_kernel_dim": keys.required("ssm.conv_kernel"),
        "layer_types": [
            "linear_attention" if i in linear else "full_attention" for i in range(config["num_hidden_layers"])
        ],
    }  # fmt: skip


FAMILIES = {"kimi-linear": Family("kimi_linear", _read, _UNDO, _TENSORS, LATENT_BEFORE)}
