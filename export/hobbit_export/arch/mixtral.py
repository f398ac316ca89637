"""model_type mixtral: every layer sparse, optional sliding window in every layer, weights always renormalised."""

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
from hobbit_export.arch.names import ATTENTION, Names, fused, per_expert

MODEL_TYPE = "mixtral"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 1e6, "num_experts_per_tok": 2, "num_local_experts": 8, "bos_token_id": 1, "eos_token_id": 2,
    "sliding_window": None,
}  # fmt: skip
# `block_sparse_moe` is the published spelling, `mlp` the one transformers 5 uses in memory.
NAMES = Names(
    (
        per_expert("block_sparse_moe", "w1", "w3", "w2"),
        per_expert("mlp", "w1", "w3", "w2"),
        fused("mlp"),
        fused("block_sparse_moe"),
    ),
    {**ATTENTION, "router": ("block_sparse_moe.gate.weight", "mlp.gate.weight")},
)


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    sizes = read_sizes(reader, generation, DEFAULTS)
    attention = with_window(read_attention(reader, sizes, DEFAULTS), read_window(reader, DEFAULTS["sliding_window"]))
    num_layers = reader.num_layers(DEFAULTS["num_hidden_layers"])
    num_experts = read_num_experts(reader, DEFAULTS["num_local_experts"], "num_local_experts", "num_experts")
    spec = ModelSpec(
        family=MODEL_TYPE,
        **vars(sizes),
        layers=[LayerSpec(attention)] * num_layers,
        router=RouterSpec(num_experts, read_top_k(reader, DEFAULTS), normalise=True),
        experts=ExpertSpec(reader.count("intermediate_size", DEFAULTS["intermediate_size"])),
    )
    reader.agrees("norm_topk_prob", True)
    reader.finish()
    return spec
