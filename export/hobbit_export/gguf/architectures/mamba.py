"""Mamba-2 between layers of attention: Granite 4 H and Nemotron 3, whose layers have one part each."""

from __future__ import annotations

from typing import Any

from hobbit_export.arch.mamba2 import mamba2_names
from hobbit_export.arch.names import Named
from hobbit_export.gguf.architectures.deepseek import CHOICE, choice
from hobbit_export.gguf.architectures.family import HEADS, Family, Undo, decay, taken_from, taps, vector
from hobbit_export.gguf.architectures.llama import SHARED, multipliers
from hobbit_export.gguf.common import ModelKeys, head_dim, heads_of_keys, layers_with, same_width, scaling, sizes, theta
from hobbit_export.gguf.keys import without_none

_FULL, _LINEAR = "full_attention", "linear_attention"
_MAMBA: dict[str, Named] = {
    **taken_from(mamba2_names("mamba"), dict.fromkeys(("linear_z", "linear_xbc", "linear_dt"), "ssm_in.weight")),
    "dt_bias": "ssm_dt.bias",
}
_UNDO_MAMBA: dict[str, Undo] = {"conv": taps, "a_log": decay, "d_skip": vector, "linear_norm": vector}


def _heads(found: ModelKeys, config: dict[str, Any]) -> dict[str, Any]:
    """Read what layers of attention have, and of no other layer."""
    kv_heads = heads_of_keys(found, layers_with(found, "attn_k.weight")) or config["num_attention_heads"]
    return without_none({"num_key_value_heads": kv_heads, "head_dim": same_width(found.keys)})


def _recurrence(found: ModelKeys) -> tuple[int, int]:
    """Read heads of Mamba-2 and their width."""
    heads, inner = found.keys.required("ssm.time_step_rank"), found.keys.required("ssm.inner_size")
    if inner % heads:
        raise found.keys.refuse("ssm.inner_size", inner, f"Expected a multiple of the {heads} heads.")
    return heads, inner // heads


def _without_rope(found: ModelKeys) -> None:
    """Take no notice of rotary options: these models rotate nothing."""
    scaling(found.keys)
    found.keys.number("rope.freq_base")
    found.keys.count("rope.dimension_count")


def _has(found: ModelKeys, tensor: str) -> bool:
    return bool(layers_with(found, tensor))


def _granite(found: ModelKeys) -> dict[str, Any]:
    keys, config = found.keys, sizes(found)
    config |= {**_heads(found, config), **multipliers(keys)}
    heads, width = _recurrence(found)
    if heads * width % config["hidden_size"]:
        raise keys.refuse("ssm.inner_size", heads * width, f"Expected a multiple of {config['hidden_size']}.")
    mamba = layers_with(found, "ssm_in.weight")
    rotates = keys.flag("rope.scaling.finetuned") or False
    if not rotates:
        _without_rope(found)
    keys.fixed("rope.dimension_count", head_dim(config))
    return config | {
        "num_local_experts": keys.required("expert_count"),
        "num_experts_per_tok": keys.required("expert_used_count"),
        "intermediate_size": keys.required("feed_forward_length"),
        "shared_intermediate_size": keys.required("expert_shared_feed_forward_length"),
        "attention_bias": _has(found, "attn_q.bias"),
        "position_embedding_type": "rope" if rotates else "nope",
        "layer_types": [_LINEAR if i in mamba else _FULL for i in range(config["num_hidden_layers"])],
        "mamba_n_heads": heads,
        "mamba_d_head": width,
        "mamba_expand": heads * width // config["hidden_size"],
        "mamba_n_groups": keys.required("ssm.group_count"),
        "mamba_d_state": keys.required("ssm.state_size"),
        "mamba_d_conv": keys.required("ssm.conv_kernel"),
        "mamba_conv_bias": _has(found, "ssm_conv1d.bias"),
        **({"rope_parameters": {"rope_theta": theta(keys), **scaling(keys)}} if rotates else {}),
    }


def _nemotron(found: ModelKeys) -> dict[str, Any]:
    keys, config = found.keys, sizes(found)
    _without_rope(found)
    keys.by_layer("feed_forward_length", keys.num_blocks)  # tensors say which layer is what
    eps = keys.number("attention.layer_norm_epsilon")
    config["layer_norm_epsilon"] = config.pop("rms_norm_eps", eps)
    dense = layers_with(found, "ffn_up.weight")
    kinds = {
        **dict.fromkeys(layers_with(found, "ssm_in.weight"), "M"),
        **dict.fromkeys(layers_with(found, "attn_q.weight"), "*"),
        **dict.fromkeys(layers_with(found, "ffn_gate_inp.weight"), "E"),
        **dict.fromkeys(dense, "-"),
    }
    heads, width = _recurrence(found)
    keys.fixed("expert_shared_count", 1)
    return config | _heads(found, config) | choice(found) | without_none({
        "hybrid_override_pattern": "".join(kinds.get(i, "?") for i in range(config["num_hidden_layers"])),
        "moe_shared_expert_intermediate_size": keys.required("expert_shared_feed_forward_length"),
        "intermediate_size": found.rows(f"blk.{dense[0]}.ffn_up.weight") if dense else None,
        "mamba_num_heads": heads,
        "mamba_head_dim": width,
        "n_groups": keys.required("ssm.group_count"),
        "ssm_state_size": keys.required("ssm.state_size"),
        "conv_kernel": keys.required("ssm.conv_kernel"),
        "use_conv_bias": _has(found, "ssm_conv1d.bias"),
    })  # fmt: skip


FAMILIES = {
    "granitehybrid": Family("granitemoehybrid", _granite, {**HEADS, **_UNDO_MAMBA}, {**_MAMBA, **SHARED}),
    "nemotron_h_moe": Family("nemotron_h", _nemotron, _UNDO_MAMBA, {**_MAMBA, **CHOICE}),
}
