"""model_type glm4_moe_lite (GLM-4.7-Flash): MLA, sigmoid router, a shared expert, dense layers by a list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.base.spec import ModelSpec
from hobbit_export.arch import deepseek
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import read_sizes
from hobbit_export.arch.names import Names, fused, per_expert

MODEL_TYPE = "glm4_moe_lite"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 154880, "hidden_size": 2048, "intermediate_size": 10240, "num_hidden_layers": 47,
    "num_attention_heads": 20, "max_position_embeddings": 202752, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
    "attention_bias": False, "moe_intermediate_size": 1536, "num_experts_per_tok": 4,
    "n_shared_experts": 1, "n_routed_experts": 64, "routed_scaling_factor": 1.8, "n_group": 1, "topk_group": 1,
    "norm_topk_prob": True, "kv_lora_rank": 512, "q_lora_rank": 768, "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64, "v_head_dim": 256, "bos_token_id": 0, "eos_token_id": 1,
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
    sparse = deepseek.by_list(reader, num_layers, 1)
    reader.fixed("first_k_dense_replace", sparse.index(True) if True in sparse else num_layers, None)
    spec = deepseek.sigmoid_model(reader, MODEL_TYPE, sizes, DEFAULTS, [attention] * num_layers, sparse)
    reader.finish()
    return spec
