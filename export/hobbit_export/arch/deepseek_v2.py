"""model_type deepseek_v2 (DeepSeek-V2, V2-Lite): MLA, softmax router that does not renormalise, shared experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.base.spec import ModelSpec, RouterSpec
from hobbit_export.arch import deepseek
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import read_sizes, read_top_k
from hobbit_export.arch.names import Names, fused, per_expert

MODEL_TYPE = "deepseek_v2"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
    "attention_bias": False, "moe_intermediate_size": 1407, "num_experts_per_tok": None, "n_shared_experts": 2,
    "n_routed_experts": 64, "routed_scaling_factor": 1.0, "n_group": None, "topk_group": None,
    "topk_method": "greedy", "first_k_dense_replace": 0, "kv_lora_rank": 512, "q_lora_rank": 1536,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
NAMES = Names(
    (per_expert("mlp", "gate_proj", "up_proj", "down_proj"), fused("mlp")),
    {**deepseek.LATENT_ATTENTION, **deepseek.MOE_NAMES},
)


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    sizes = read_sizes(reader, generation, DEFAULTS)
    num_layers = reader.num_layers(DEFAULTS["num_hidden_layers"])
    attention = deepseek.read_latent_attention(reader, sizes, DEFAULTS)
    sparse = deepseek.first_dense(reader, DEFAULTS, num_layers)
    spec = ModelSpec(
        family=MODEL_TYPE,
        **vars(sizes),
        layers=deepseek.read_layers(reader, DEFAULTS, [attention] * num_layers, sparse),
        router=_router(reader),
        experts=deepseek.read_experts(reader, DEFAULTS),
    )
    reader.finish()
    return spec


def _router(reader: ConfigReader) -> RouterSpec:
    """The best experts of all, or of the groups whose best expert is best. Nothing divides weights by their sum."""
    reader.fixed("norm_topk_prob", False, None)
    reader.fixed("scoring_func", "softmax", None)
    method = reader.get("topk_method", DEFAULTS["topk_method"])
    if method not in ("greedy", "group_limited_greedy"):
        raise reader.refuse("topk_method", method, "Supported: greedy, group_limited_greedy.")
    limited = method == "group_limited_greedy"
    for key in ("n_group", "topk_group"):
        reader.get(key)  # says nothing to the greedy method
    return RouterSpec(
        deepseek.read_routed(reader, DEFAULTS),
        read_top_k(reader, DEFAULTS),
        scale=reader.number("routed_scaling_factor", DEFAULTS["routed_scaling_factor"]),
        groups=deepseek.read_groups(reader, DEFAULTS, "max") if limited else None,
    )
