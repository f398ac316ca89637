"""model_type granitemoehybrid: Mamba-2 between layers of attention without rope, a shared network, multipliers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edge_runtime.base.spec import ExpertSpec, LayerSpec, LinearAttention, MlpSpec, ModelSpec, SharedSpec
from hobbit_export.arch import granitemoe, granitemoeshared
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import read_attention, read_layer_types, read_sizes
from hobbit_export.arch.mamba2 import mamba2, mamba2_names, no_time_limits

MODEL_TYPE = "granitemoehybrid"
DEFAULTS: dict[str, Any] = {
    **granitemoe.DEFAULTS, "shared_intermediate_size": 1024, "mamba_n_heads": 128, "mamba_n_groups": 1,
    "mamba_d_state": 256, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_conv_bias": True,
}  # fmt: skip
NAMES = replace(granitemoeshared.NAMES, layer={**granitemoeshared.NAMES.layer, **mamba2_names("mamba")})
_MAMBA, _ATTENTION = ("linear_attention", "mamba"), ("full_attention", "attention")


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    sizes = read_sizes(reader, generation, DEFAULTS)
    num_layers = reader.num_layers(DEFAULTS["num_hidden_layers"])
    multipliers = granitemoe.read_multipliers(reader)
    bias = reader.flag("attention_bias", DEFAULTS["attention_bias"])
    attention = read_attention(reader, sizes, DEFAULTS, qkv_bias=bias, o_bias=bias)
    has_rope = reader.get("position_embedding_type") == "rope"
    attention = replace(attention, scale=multipliers.attention_scale, rope=attention.rope if has_rope else None)
    recurrence = _recurrence(reader, sizes.hidden)
    kinds = read_layer_types(reader, num_layers, [_MAMBA[0]] * num_layers, (*_MAMBA, *_ATTENTION))
    shared = SharedSpec(MlpSpec(reader.count("shared_intermediate_size", DEFAULTS["shared_intermediate_size"])))
    spec = ModelSpec(
        family=MODEL_TYPE,
        **vars(sizes),
        **multipliers.of_model(),
        layers=[LayerSpec(recurrence if kind in _MAMBA else attention, shared=shared) for kind in kinds],
        router=granitemoe.read_router(reader),
        experts=ExpertSpec(reader.count("intermediate_size", DEFAULTS["intermediate_size"])),
    )
    reader.fixed("position_embedding_type", None, "nope", "rope")
    reader.fixed("normalization_function", "rmsnorm", None)
    reader.finish(frozenset({"init_method", "mamba_chunk_size"}))
    return spec


def _recurrence(reader: ConfigReader, hidden: int) -> LinearAttention:
    def count(key: str) -> int:
        return reader.count(key, DEFAULTS[key])

    heads, width = count("mamba_n_heads"), count("mamba_expand") * hidden
    head_dim = width // heads
    if reader.get("mamba_d_head", "auto") != "auto":
        head_dim = reader.count("mamba_d_head", None)
    if heads * head_dim != width:
        raise reader.refuse("mamba_d_head", head_dim, f"{heads} heads have {width} numbers together.")
    reader.fixed("mamba_proj_bias", False, None)
    no_time_limits(reader)
    conv_bias = reader.flag("mamba_conv_bias", DEFAULTS["mamba_conv_bias"])
    return mamba2(
        heads, head_dim, count("mamba_n_groups"), count("mamba_d_state"), count("mamba_d_conv"), conv_bias=conv_bias
    )  # fmt: skip
