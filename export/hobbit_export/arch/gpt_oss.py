"""model_type gpt_oss: attention sinks, windows in every other layer, clamped SwiGLU with biases, YaRN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.base.spec import ExpertSpec, LayerSpec, ModelSpec, RouterSpec
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import (
    read_attention,
    read_layer_types,
    read_num_experts,
    read_sizes,
    read_top_k,
    read_window,
    with_window,
)
from hobbit_export.arch.names import ATTENTION, Names, fused

MODEL_TYPE = "gpt_oss"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36,
    "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5, "rope_theta": 150000.0, "num_experts_per_tok": 4, "num_local_experts": 128,
    "sliding_window": 128, "attention_bias": True, "swiglu_alpha": 1.702, "swiglu_limit": 7.0, "bos_token_id": None,
    "eos_token_id": None,
    "rope_parameters": {
        "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
        "original_max_position_embeddings": 4096,
    },
}  # fmt: skip
NAMES = Names(
    (fused("mlp", bias=True, interleaved=True, transposed=True),),
    {
        **ATTENTION,
        "sinks": "self_attn.sinks",
        "router": "mlp.router.weight",
        "router_logit_bias": "mlp.router.bias",
    },
)


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    sizes = read_sizes(reader, generation, DEFAULTS)
    bias = reader.flag("attention_bias", DEFAULTS["attention_bias"])
    attention = read_attention(reader, sizes, DEFAULTS, qkv_bias=bias, o_bias=bias, sinks=True)
    num_layers = reader.num_layers(DEFAULTS["num_hidden_layers"])
    default_types = ["full_attention" if i % 2 else "sliding_attention" for i in range(num_layers)]
    window = read_window(reader, DEFAULTS["sliding_window"])
    kinds = read_layer_types(reader, num_layers, default_types, ("full_attention", "sliding_attention"))
    if "sliding_attention" in kinds and window is None:
        raise reader.refuse("sliding_window", None, "layer_types asks for sliding attention: give its window.")
    layers = [LayerSpec(with_window(attention, window if kind == "sliding_attention" else None)) for kind in kinds]
    top_k = read_top_k(reader, DEFAULTS)
    experts = read_num_experts(reader, DEFAULTS["num_local_experts"], "num_local_experts", "num_experts")
    spec = ModelSpec(
        family=MODEL_TYPE,
        **vars(sizes),
        layers=layers,
        router=RouterSpec(experts, top_k, softmax_over="chosen", logit_bias=True),
        experts=ExpertSpec(
            reader.count("intermediate_size", DEFAULTS["intermediate_size"]),
            bias=True,
            limit=reader.number("swiglu_limit", DEFAULTS["swiglu_limit"]),
            alpha=reader.number("swiglu_alpha", DEFAULTS["swiglu_alpha"]),
            up_offset=1.0,
        ),
    )
    # published configurations say these twice, under the names of the model's first code
    reader.fixed("experts_per_token", top_k)
    reader.fixed("initial_context_length", reader.get("original_max_position_embeddings"), _original(attention.rope))
    reader.finish()
    return spec


def _original(rope: Any) -> Any:
    """Positions before YaRN stretches them."""
    return rope.params.get("original_max_position_embeddings")
