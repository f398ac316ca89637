"""model_type deepseek_v3 (DeepSeek-V3, R1, Moonlight): MLA, sigmoid router with groups and a bias, shared experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.base.spec import ModelSpec
from hobbit_export.arch import deepseek
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import read_sizes
from hobbit_export.arch.names import Names, fused, per_expert

MODEL_TYPE = "deepseek_v3"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
    "num_attention_heads": 128, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
    "attention_bias": False, "moe_intermediate_size": 2048, "num_experts_per_tok": 8, "n_shared_experts": 1,
    "n_routed_experts": 256, "routed_scaling_factor": 2.5, "n_group": 8, "topk_group": 4,
    "first_k_dense_replace": 3, "norm_topk_prob": True, "kv_lora_rank": 512, "q_lora_rank": 1536,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
NAMES = Names(
    (per_expert("mlp", "gate_proj", "up_proj", "down_proj"), fused("mlp")),
    {**deepseek.LATENT_ATTENTION, **deepseek.MOE_NAMES},
    beyond=deepseek.DRAFTING,
)


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    sizes = read_sizes(reader, generation, DEFAULTS)
    num_layers = reader.num_layers(DEFAULTS["num_hidden_layers"])
    attention = deepseek.read_latent_attention(reader, sizes, DEFAULTS)
    sparse = deepseek.first_dense(reader, DEFAULTS, num_layers)
    spec = deepseek.sigmoid_model(reader, MODEL_TYPE, sizes, DEFAULTS, [attention] * num_layers, sparse)
    reader.finish()
    return spec
