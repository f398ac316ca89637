"""model_type qwen3_next: three Gated DeltaNet layers to one of gated attention, a shared expert with a gate.

The recurrence's inputs are projected by two matrices whose rows lie key head by key head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edge_runtime.base.spec import LinearAttention, MlpSpec, ModelSpec, SharedSpec
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import is_sparse, read_attention, read_sizes
from hobbit_export.arch.gated_delta import HYBRID, LINEAR_DEFAULTS, drafting_layers, parts_of, read_mixers, top_names
from hobbit_export.arch.names import Names, fused, per_expert
from hobbit_export.arch.qwen2_moe import softmax_model

MODEL_TYPE = "qwen3_next"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 48,
    "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256, "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6, "rope_theta": 1e4, "partial_rotary_factor": 0.25, "attention_bias": False,
    "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "num_experts_per_tok": 10,
    "num_experts": 512, "norm_topk_prob": True, "bos_token_id": None, "eos_token_id": None, **LINEAR_DEFAULTS,
}  # fmt: skip


def _qkvz(attention: LinearAttention) -> tuple[int, tuple[int, ...]]:
    values = attention.num_value_heads // attention.num_key_heads * attention.value_dim
    return attention.num_key_heads, (attention.key_dim, attention.key_dim, values, values)


def _ba(attention: LinearAttention) -> tuple[int, tuple[int, ...]]:
    group = attention.num_value_heads // attention.num_key_heads
    return attention.num_key_heads, (group, group)


NAMES = Names(
    (per_expert("mlp", "gate_proj", "up_proj", "down_proj"), fused("mlp")),
    {
        **HYBRID,
        **parts_of("linear_attn.in_proj_qkvz.weight", ("linear_q", "linear_k", "linear_v", "linear_z"), _qkvz),
        **parts_of("linear_attn.in_proj_ba.weight", ("linear_b", "linear_a"), _ba),
    },
    top=top_names(),
    left_out=(drafting_layers(re.compile(r"mtp\..*")),),
)


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    sizes = read_sizes(reader, generation, DEFAULTS)
    bias = reader.flag("attention_bias", DEFAULTS["attention_bias"])
    full = read_attention(reader, sizes, DEFAULTS, qk_norm="per_head", output_gate=True, qkv_bias=bias, o_bias=bias)
    num_layers = reader.num_layers(DEFAULTS["num_hidden_layers"])
    dense = MlpSpec(reader.count("intermediate_size", DEFAULTS["intermediate_size"]))
    width = reader.count("shared_expert_intermediate_size", DEFAULTS["shared_expert_intermediate_size"])
    shared = SharedSpec(MlpSpec(width), gate=True)
    layers = [
        replace(layer, shared=shared) if sparse else replace(layer, sparse=False, dense=dense)
        for layer, sparse in zip(read_mixers(reader, num_layers, full), is_sparse(reader, num_layers), strict=True)
    ]
    spec = softmax_model(reader, MODEL_TYPE, sizes, DEFAULTS, layers)
    reader.finish()
    return spec
