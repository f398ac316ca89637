"""Families that are read from GGUF: the architecture's name there, its configuration, and what conversion changed.

Tensor names come from the tables of the `gguf` package. Where a file leaves something out, the value is the one
llama.cpp computes with: whether the weights of the chosen experts are renormalised, for instance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.base.errors import ConfigError
from hobbit_export.arch.names import LeftOut
from hobbit_export.gguf.common import Found, decoder, head_dim, intermediate, rope
from hobbit_export.gguf.undo import in_halves, with_shape
from hobbit_export.weights import Weight

Undo = Callable[[Weight, Mapping[str, Any]], Weight]
"""A weight as it is stored, and the configuration -> the weight as transformers has it."""


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        model_type: its name in transformers, by which the adapter is found.
        read: builds config.json.
        undo: canonical name of a weight -> how to undo what was done to it.
        left_out: tensors that are not part of what is run.
    """

    model_type: str
    read: Callable[[Found], dict[str, Any]]
    undo: Mapping[str, Undo] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()


def family_of(architecture: str, found: Found) -> Family:
    """Return the family of an architecture.

    Raises:
        ConfigError: it is not read, or a dense model.
    """
    experts = found.keys.count("expert_count") or 0
    if not experts:
        raise ConfigError(
            f"{found.keys.where}: general.architecture: {architecture[:60]!r} is a dense model: it has no experts to "
            f"stream. Supported architectures: {', '.join(sorted(FAMILIES))}."
        )
    if architecture not in FAMILIES:
        raise ConfigError(
            f"{found.keys.where}: general.architecture: {architecture[:60]!r} is not read from GGUF yet. Supported "
            f"architectures: {', '.join(sorted(FAMILIES))}. Of others give the safetensors checkpoint."
        )
    return FAMILIES[architecture]


def _plain(found: Found) -> dict[str, Any]:
    """Read a decoder with one kind of layer and rope."""
    config = decoder(found)
    return {**config, **rope(found.keys, head_dim(config))}


def _mixtral(found: Found) -> dict[str, Any]:
    config = _plain(found)
    config["num_local_experts"] = found.keys.required("expert_count")
    dense = found.keys.required("feed_forward_length")
    config["intermediate_size"] = found.keys.count("expert_feed_forward_length") or dense
    config["sliding_window"] = found.keys.count("attention.sliding_window") or None
    return config


def _with_experts(found: Found, *, normalise: bool) -> dict[str, Any]:
    config = _plain(found)
    config["num_experts"] = found.keys.required("expert_count")
    config["norm_topk_prob"] = normalise
    found.keys.fixed("expert_weights_norm", normalise)
    return config


def _olmoe(found: Found) -> dict[str, Any]:
    config = _with_experts(found, normalise=False)
    config["intermediate_size"] = found.keys.required("feed_forward_length")
    config["attention_bias"] = "blk.0.attn_q.bias" in found.tensors
    config["clip_qkv"] = found.keys.number("attention.clamp_kqv") or None
    return config


def _qwen2_moe(found: Found) -> dict[str, Any]:
    config = _with_experts(found, normalise=False)
    config["intermediate_size"] = found.keys.required("feed_forward_length")
    config["moe_intermediate_size"] = intermediate(found, "expert_feed_forward_length", "blk.0.ffn_gate_exps.weight")
    config["shared_expert_intermediate_size"] = intermediate(
        found, "expert_shared_feed_forward_length", "blk.0.ffn_gate_shexp.weight"
    )
    config["qkv_bias"] = "blk.0.attn_q.bias" in found.tensors
    return config


def _qwen3_moe(found: Found) -> dict[str, Any]:
    config = _with_experts(found, normalise=True)
    config["intermediate_size"] = found.keys.required("feed_forward_length")
    config["moe_intermediate_size"] = intermediate(found, "expert_feed_forward_length", "blk.0.ffn_gate_exps.weight")
    config["attention_bias"] = "blk.0.attn_q.bias" in found.tensors
    return config


def _heads(weight: Weight, config: Mapping[str, Any]) -> Weight:
    return in_halves(weight, head_dim(config))


def _one_row(weight: Weight, config: Mapping[str, Any]) -> Weight:
    """A matrix of one row, which older converters store as a vector."""
    return with_shape(weight, 1, config["hidden_size"])


FAMILIES: dict[str, Family] = {
    "llama": Family("mixtral", _mixtral, dict.fromkeys(("q", "k", "q_bias", "k_bias"), _heads)),
    "olmoe": Family("olmoe", _olmoe),
    "qwen2moe": Family("qwen2_moe", _qwen2_moe, {"shared_expert_gate": _one_row}),
    "qwen3moe": Family("qwen3_moe", _qwen3_moe),
}
