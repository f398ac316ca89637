"""Decoders whose layers mix tokens alike: ERNIE 4.5, Hunyuan-A13B, MiniMax-M2, Phi-3.5-MoE."""

from __future__ import annotations

import logging
import re
from typing import Any

from edge_runtime.base.errors import ConfigError
from hobbit_export.arch.names import LeftOut
from hobbit_export.gguf.architectures.deepseek import CHOICE
from hobbit_export.gguf.architectures.family import Family, has_bias, plain
from hobbit_export.gguf.common import ModelKeys, decoder, head_dim, scaling, theta

_log = logging.getLogger(__name__)
_FACTORS = {"short_factor": "rope_factors_short.weight", "long_factor": "rope_factors_long.weight"}
_LEFT_OUT = LeftOut(re.compile("rope_factors_(short|long).weight"), "factors of the rope, read as its options")
_MOST_FACTORS = 1 << 14


def _ernie(found: ModelKeys) -> dict[str, Any]:
    keys = found.keys
    keys.fixed("expert_weights_norm", True)
    keys.count("expert_shared_feed_forward_length")  # converters compute it from the number of heads; tensors have it
    return plain(found) | {
        "intermediate_size": keys.required("feed_forward_length"),
        "moe_intermediate_size": keys.required("expert_feed_forward_length"),
        "moe_num_experts": keys.required("expert_count"),
        "moe_num_shared_experts": keys.count("expert_shared_count") or 0,
        "moe_layer_interval": keys.count("interleave_moe_layer_step") or 1,
        "moe_layer_start_index": keys.count("leading_dense_block_count") or 0,
    }


def _hunyuan(found: ModelKeys) -> dict[str, Any]:
    keys = found.keys
    width = keys.required("expert_feed_forward_length")
    for name in ("feed_forward_length", "expert_shared_feed_forward_length"):
        keys.fixed(name, width)
    keys.fixed("expert_shared_count", 1)
    keys.fixed("expert_weights_norm", True)
    return plain(found) | {
        "intermediate_size": width, "num_experts": keys.required("expert_count"), "attention_bias": has_bias(found),
    }  # fmt: skip


def _minimax(found: ModelKeys) -> dict[str, Any]:
    keys, config = found.keys, decoder(found)
    keys.fixed("expert_gating_func", 2)  # sigmoid
    keys.fixed("expert_weights_norm", True)
    keys.count("feed_forward_length")  # of dense layers, of which there are none
    return config | {
        "intermediate_size": keys.required("expert_feed_forward_length"),
        "num_local_experts": keys.required("expert_count"),
        "rotary_dim": keys.count("rope.dimension_count") or head_dim(config),
        "rope_parameters": {"rope_theta": theta(keys), **scaling(keys)},
    }


def _phi(found: ModelKeys) -> dict[str, Any]:
    keys, config = found.keys, decoder(found)
    keys.fixed("rope.dimension_count", head_dim(config))
    keys.fixed("attention.layer_norm_epsilon", config.get("rms_norm_eps"))
    return config | {
        "intermediate_size": keys.required("feed_forward_length"),
        "num_local_experts": keys.required("expert_count"),
        "sliding_window": keys.count("attention.sliding_window") or None,
        "attention_bias": has_bias(found),
        "lm_head_bias": "output.bias" in found.tensors,
        "rope_parameters": {"rope_theta": theta(keys), **_longrope(found, head_dim(config))},
    }


def _longrope(found: ModelKeys, dim: int) -> dict[str, Any]:
    """Read how the rope is stretched: factors are tensors, and one number multiplies, however long a text is."""
    keys = found.keys
    if not any(tensor in found.tensors for tensor in _FACTORS.values()):
        return scaling(keys)
    keys.fixed("rope.scaling.type", "longrope")
    factors = {name: _factors(found, tensor, dim) for name, tensor in _FACTORS.items()}
    multiplier = keys.number("rope.scaling.attn_factor") or 1.0
    _log.warning(
        "%s: rope.scaling.attn_factor %s: converters compute it from lengths of context, and the model may have "
        "another (Phi-3.5-MoE has 1.2432). For the model's own export its safetensors checkpoint.",
        keys.where, multiplier,
    )  # fmt: skip
    return {
        "rope_type": "longrope", **factors, "short_mscale": multiplier, "long_mscale": multiplier,
        "original_max_position_embeddings": keys.required("rope.scaling.original_context_length"),
    }  # fmt: skip


def _factors(found: ModelKeys, tensor: str, dim: int) -> list[float]:
    info = found.tensors.get(tensor)
    if info is None or info.shape != (dim // 2,) or info.dtype != "F32" or dim > _MOST_FACTORS:
        raise ConfigError(f"{found.keys.where}: tensor {tensor!r}: expected {dim // 2} numbers in F32.")
    return [float(factor) for factor in found.numbers(tensor)]  # as published: exact in float32


FAMILIES = {
    "ernie4_5-moe": Family("ernie4_5_moe", _ernie, tensors=CHOICE),
    "hunyuan-moe": Family("hunyuan_v1_moe", _hunyuan),
    "minimax-m2": Family("minimax_m2", _minimax, tensors=CHOICE),
    "phimoe": Family("phimoe", _phi, left_out=(_LEFT_OUT,)),
}
