"""model_type olmoe: norms over the whole width of q and k, optional clipping of q, k and v."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.base.spec import ExpertSpec, LayerSpec, ModelSpec, RouterSpec
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import read_attention, read_num_experts, read_sizes, read_top_k
from hobbit_export.arch.names import ATTENTION, Names, fused, per_expert

MODEL_TYPE = "olmoe"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 50304, "hidden_size": 2048, "intermediate_size": 2048, "num_hidden_layers": 16,
    "num_attention_heads": 16, "num_key_value_heads": None, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    "rope_theta": 1e4, "num_experts_per_tok": 8, "num_experts": 64, "norm_topk_prob": False, "attention_bias": False,
    "clip_qkv": None, "bos_token_id": None, "eos_token_id": 50279,
}  # fmt: skip
NAMES = Names(
    (per_expert("mlp", "gate_proj", "up_proj", "down_proj"), fused("mlp")),
    {**ATTENTION, "router": "mlp.gate.weight"},
)


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    sizes = read_sizes(reader, generation, DEFAULTS)
    num_layers = reader.num_layers(DEFAULTS["num_hidden_layers"])
    bias = reader.flag("attention_bias", DEFAULTS["attention_bias"])
    clip = None if reader.get("clip_qkv") is None else reader.number("clip_qkv", None)
    reader.fixed("sliding_window", None)  # transformers hands it to some attention kernels and not to others
    attention = read_attention(reader, sizes, DEFAULTS, qk_norm="full", qkv_bias=bias, o_bias=bias, clip_qkv=clip)
    num_experts = read_num_experts(reader, DEFAULTS["num_experts"], "num_experts", "num_local_experts")
    normalise = reader.flag("norm_topk_prob", DEFAULTS["norm_topk_prob"])
    spec = ModelSpec(
        family=MODEL_TYPE,
        **vars(sizes),
        layers=[LayerSpec(attention)] * num_layers,
        router=RouterSpec(num_experts, read_top_k(reader, DEFAULTS), normalise=normalise),
        experts=ExpertSpec(reader.count("intermediate_size", DEFAULTS["intermediate_size"])),
    )
    reader.finish()
    return spec
