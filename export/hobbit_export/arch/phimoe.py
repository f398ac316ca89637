"""model_type phimoe (Phi-3.5-MoE): sparsemixer routing, LayerNorm with biases, longrope, biases of attention and head.

Beyond the original context the long factors are used, as the model's authors use them; transformers 5.24 never does
(docs/adr/0092-the-context-chooses-the-factors-of-longrope.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.base.spec import ExpertSpec, LayerSpec, ModelSpec, RouterSpec
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import (
    read_attention,
    read_num_experts,
    read_sizes,
    read_top_k,
    read_window,
    with_window,
)
from hobbit_export.arch.names import ATTENTION, TOP, Names, fused, per_expert

MODEL_TYPE = "phimoe"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 32064, "hidden_size": 4096, "intermediate_size": 6400, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 1e6, "num_experts_per_tok": 2, "num_local_experts": 16, "bos_token_id": 1, "eos_token_id": 2,
    "sliding_window": None, "attention_bias": False, "lm_head_bias": False, "router_jitter_noise": 0.01,
}  # fmt: skip
# `block_sparse_moe` is the published spelling, `mlp` the one transformers 5 uses in memory.
NAMES = Names(
    (per_expert("block_sparse_moe", "w1", "w3", "w2"), per_expert("mlp", "w1", "w3", "w2"), fused("mlp")),
    {
        **ATTENTION,
        "attn_norm_bias": "input_layernorm.bias",
        "ffn_norm_bias": "post_attention_layernorm.bias",
        "router": ("block_sparse_moe.gate.weight", "mlp.router.weight", "mlp.gate.weight"),
    },
    top={**TOP, "final_norm_bias": "model.norm.bias", "head_bias": "lm_head.bias"},
)


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    sizes = read_sizes(reader, generation, DEFAULTS)
    bias = reader.flag("attention_bias", DEFAULTS["attention_bias"])
    attention = read_attention(
        reader, sizes, DEFAULTS, rope_kinds=("default", "longrope"), qkv_bias=bias, o_bias=bias
    )  # fmt: skip
    attention = with_window(attention, read_window(reader, DEFAULTS["sliding_window"]))
    num_layers = reader.num_layers(DEFAULTS["num_hidden_layers"])
    spec = ModelSpec(
        family=MODEL_TYPE,
        **vars(sizes),
        layers=[LayerSpec(attention)] * num_layers,
        router=_router(reader),
        experts=ExpertSpec(reader.count("intermediate_size", DEFAULTS["intermediate_size"])),
        norm="layer",
        head_bias=reader.flag("lm_head_bias", DEFAULTS["lm_head_bias"]),
    )
    reader.finish()
    return spec


def _router(reader: ConfigReader) -> RouterSpec:
    """Sparsemixer chooses two experts, whatever the number of experts a token."""
    top_k = read_top_k(reader, DEFAULTS)
    if top_k != 2:
        raise reader.refuse("num_experts_per_tok", top_k, "Routers of this family choose 2 experts.")
    num_experts = read_num_experts(reader, DEFAULTS["num_local_experts"], "num_local_experts", "num_experts")
    jitter = reader.number("router_jitter_noise", DEFAULTS["router_jitter_noise"])
    return RouterSpec(num_experts, top_k, softmax_over="near", near=2 * jitter)
