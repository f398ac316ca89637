"""model_type qwen3_moe: norms on each head's q and k, optional attention bias, sliding window in all layers or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edge_runtime.base.spec import ExpertSpec, LayerSpec, MlpSpec, ModelSpec, RouterSpec
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import (
    is_sparse,
    read_attention,
    read_num_experts,
    read_sizes,
    read_top_k,
    read_window,
    with_window,
)
from hobbit_export.arch.names import ATTENTION, Names, fused, mlp_names, per_expert

MODEL_TYPE = "qwen3_moe"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24,
    "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
    "rope_theta": 1e4, "num_experts_per_tok": 8, "num_experts": 128, "moe_intermediate_size": 768,
    "norm_topk_prob": False, "attention_bias": False, "use_sliding_window": False, "sliding_window": 4096,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
NAMES = Names(
    (per_expert("mlp", "gate_proj", "up_proj", "down_proj"), fused("mlp")),
    {**ATTENTION, "router": "mlp.gate.weight", **mlp_names("dense", "mlp")},
)


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    sizes = read_sizes(reader, generation, DEFAULTS)
    num_layers = reader.num_layers(DEFAULTS["num_hidden_layers"])
    dense = reader.count("intermediate_size", DEFAULTS["intermediate_size"])
    window = None
    if reader.flag("use_sliding_window", DEFAULTS["use_sliding_window"]):
        window = read_window(reader, DEFAULTS["sliding_window"])
    reader.get("sliding_window")  # says nothing while switched off
    bias = reader.flag("attention_bias", DEFAULTS["attention_bias"])
    reader.fixed("qkv_bias", False, bias)  # published configurations carry it; transformers reads attention_bias
    attention = read_attention(reader, sizes, DEFAULTS, qk_norm="per_head", qkv_bias=bias, o_bias=bias)
    sparse_layer = LayerSpec(with_window(attention, window))
    dense_layer = replace(sparse_layer, sparse=False, dense=MlpSpec(dense))
    num_experts = read_num_experts(reader, DEFAULTS["num_experts"], "num_experts", "num_local_experts")
    normalise = reader.flag("norm_topk_prob", DEFAULTS["norm_topk_prob"])
    spec = ModelSpec(
        family=MODEL_TYPE,
        **vars(sizes),
        layers=[sparse_layer if sparse else dense_layer for sparse in is_sparse(reader, num_layers)],
        router=RouterSpec(num_experts, read_top_k(reader, DEFAULTS), normalise=normalise),
        experts=ExpertSpec(reader.count("moe_intermediate_size", DEFAULTS["moe_intermediate_size"])),
    )
    reader.finish(frozenset() if window else frozenset({"max_window_layers"}))
    return spec
