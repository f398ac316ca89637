"""model_type glm4_moe (GLM-4.5, GLM-4.5-Air): half of each head rotated, sigmoid router, a shared expert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.base.spec import ModelSpec
from hobbit_export.arch import deepseek
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import read_attention, read_sizes
from hobbit_export.arch.names import ATTENTION, Names, fused, per_expert

MODEL_TYPE = "glm4_moe"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 10944, "num_hidden_layers": 46,
    "num_attention_heads": 96, "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 1e4, "partial_rotary_factor": 0.5, "attention_bias": False, "moe_intermediate_size": 1408,
    "num_experts_per_tok": 8, "n_shared_experts": 1, "n_routed_experts": 128, "routed_scaling_factor": 1.0,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "norm_topk_prob": True, "use_qk_norm": False,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
NAMES = Names(
    (per_expert("mlp", "gate_proj", "up_proj", "down_proj"), fused("mlp")),
    {**ATTENTION, **deepseek.MOE_NAMES},
    beyond=deepseek.DRAFTING,
)


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    sizes = read_sizes(reader, generation, DEFAULTS)
    num_layers = reader.num_layers(DEFAULTS["num_hidden_layers"])
    attention = read_attention(
        reader, sizes, DEFAULTS,
        qk_norm="per_head" if reader.flag("use_qk_norm", DEFAULTS["use_qk_norm"]) else "none",
        qkv_bias=reader.flag("attention_bias", DEFAULTS["attention_bias"]),
    )  # fmt: skip
    sparse = deepseek.first_dense(reader, DEFAULTS, num_layers)
    spec = deepseek.sigmoid_model(reader, MODEL_TYPE, sizes, DEFAULTS, [attention] * num_layers, sparse)
    reader.finish()
    return spec
