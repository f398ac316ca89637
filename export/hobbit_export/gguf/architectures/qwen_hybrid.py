"""Qwen3-Next and Qwen3.5 MoE: Gated DeltaNet beside gated attention.

Conversion adds 1 to the weights of norms, which is how the exporter has them; it stores -exp(A_log); it splits fused
projections; and of Qwen3.5 it orders value heads by their number below a key head, not by key head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hobbit_export.arch.names import Named
from hobbit_export.gguf.architectures.family import Family, Undo, has_bias, one_row
from hobbit_export.gguf.architectures.qwen import experts
from hobbit_export.gguf.common import ModelKeys, decoder, intermediate, scaling, theta
from hobbit_export.gguf.undo import columns_ordered, log_of_negative, rows_ordered, with_shape
from hobbit_export.weight_parts import HeadRows
from hobbit_export.weights import Weight


def _read(found: ModelKeys) -> dict[str, Any]:
    keys = found.keys
    config = {**decoder(found), **experts(found, normalise=True)}
    values, inner = keys.required("ssm.time_step_rank"), keys.required("ssm.inner_size")
    if inner % values:
        raise keys.refuse("ssm.inner_size", inner, f"Expected a multiple of the {values} value heads.")
    keys.numbers("rope.dimension_sections", 4)  # of text all parts of a position are the same
    keys.count("full_attention_interval")  # tensors say which layer is what
    keys.numbers("attention.recurrent_layers", keys.num_blocks)
    keys.count("feed_forward_length")  # of dense layers, of which there are none
    rotated = keys.required("rope.dimension_count")
    layers = range(config["num_hidden_layers"])
    linear = [f"blk.{i}.ssm_a" in found.tensors for i in layers]
    return config | {
        "shared_expert_intermediate_size": intermediate(
            found, "expert_shared_feed_forward_length", "blk.0.ffn_gate_shexp.weight"
        ),
        "attention_bias": has_bias(found),
        "layer_types": ["linear_attention" if each else "full_attention" for each in linear],
        "linear_conv_kernel_dim": keys.required("ssm.conv_kernel"),
        "linear_key_head_dim": keys.required("ssm.state_size"),
        "linear_num_key_heads": keys.required("ssm.group_count"),
        "linear_num_value_heads": values,
        "linear_value_head_dim": inner // values,
        "rope_parameters": {
            "rope_theta": theta(keys), "partial_rotary_factor": rotated / config["head_dim"], **scaling(keys),
        },
    }  # fmt: skip


def _qwen35(found: ModelKeys) -> dict[str, Any]:
    """The adapter takes weights to be renormalised without being told."""
    config = _read(found)
    del config["norm_topk_prob"]
    return config


def _queries_and_gates(attention: Any) -> tuple[int, tuple[int, ...]]:
    return attention.num_heads, (attention.head_dim, attention.head_dim)


def _queries_keys_values(attention: Any) -> tuple[int, tuple[int, ...]]:
    keys = attention.num_key_heads * attention.key_dim
    return 1, (keys, keys, attention.num_value_heads * attention.value_dim)


def _betas_and_alphas(attention: Any) -> tuple[int, tuple[int, ...]]:
    group = attention.num_value_heads // attention.num_key_heads
    return attention.num_key_heads, (group, group)


_COMMON: dict[str, Named] = {
    "attn_norm": "attn_norm.weight",
    "ffn_norm": "post_attention_norm.weight",
    "q_norm": "attn_q_norm.weight",
    "k_norm": "attn_k_norm.weight",
    "final_norm": "output_norm.weight",
    **{name: HeadRows("attn_q.weight", i, _queries_and_gates) for i, name in enumerate(("q", "q_gate"))},
    **{f"{name}_bias": HeadRows("attn_q.bias", i, _queries_and_gates) for i, name in enumerate(("q", "q_gate"))},
    **{f"linear_{name}": HeadRows("attn_qkv.weight", i, _queries_keys_values) for i, name in enumerate("qkv")},
    "linear_z": "attn_gate.weight",
    "dt_bias": "ssm_dt.bias",
    "a_log": "ssm_a",
}
_NEXT = {f"linear_{name}": HeadRows("ssm_ba.weight", i, _betas_and_alphas) for i, name in enumerate("ba")}
_APART = {"linear_b": "ssm_beta.weight", "linear_a": "ssm_alpha.weight"}


def _taps(weight: Weight, config: Mapping[str, Any]) -> Weight:
    """The convolution of each channel as a matrix of one row."""
    return with_shape(weight, weight.shape[0], 1, config["linear_conv_kernel_dim"])


def _a_log(weight: Weight, config: Mapping[str, Any]) -> Weight:
    return log_of_negative(weight)


def _order(config: Mapping[str, Any]) -> list[int]:
    """Where the file has each value head."""
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    return [each * keys + key for key in range(keys) for each in range(values // keys)]


def _values(size: str | None, *, after_keys: bool = False) -> Undo:
    """Put rows of value heads into order: so many a head (a key of the configuration), or one."""

    def undo(weight: Weight, config: Mapping[str, Any]) -> Weight:
        keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
        return rows_ordered(weight, _order(config), config[size] if size else 1, 2 * keys if after_keys else 0)

    return undo


def _outputs(weight: Weight, config: Mapping[str, Any]) -> Weight:
    return columns_ordered(weight, _order(config))


_VALUE = "linear_value_head_dim"
_UNDO: dict[str, Undo] = {"shared_expert_gate": one_row, "conv": _taps, "a_log": _a_log}
_ORDERED: dict[str, Undo] = {
    **_UNDO,
    "linear_v": _values(_VALUE, after_keys=True),
    "linear_z": _values(_VALUE),
    "linear_a": _values(None),
    "linear_b": _values(None),
    "dt_bias": _values(None),
    "a_log": lambda weight, config: _values(None)(_a_log(weight, config), config),
    "conv": lambda weight, config: _taps(_values(_VALUE, after_keys=True)(weight, config), config),
    "linear_o": _outputs,
}
FAMILIES = {
    "qwen3next": Family("qwen3_next", _read, _UNDO, {**_COMMON, **_NEXT}),
    "qwen35moe": Family("qwen3_5_moe_text", _qwen35, _ORDERED, {**_COMMON, **_APART}),
}
