"""model_type qwen3_5_moe_text: as qwen3_next, with experts in every layer and unfused projections of the recurrence.

Its rope has sections for three coordinates of an image; for text they are equal, and it is the plain one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edge_runtime.base.spec import ExpertSpec, LinearAttention, MlpSpec, ModelSpec, RouterSpec, SharedSpec
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import read_attention, read_num_experts, read_sizes, read_top_k
from hobbit_export.arch.gated_delta import (
    HYBRID,
    LINEAR_DEFAULTS,
    drafting_layers,
    layers_below,
    parts_of,
    read_mixers,
    top_names,
)
from hobbit_export.arch.names import LAYERS, LeftOut, Names, fused, per_expert
from hobbit_export.arch.nested import without_grids

MODEL_TYPE = "qwen3_5_moe_text"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 248320, "hidden_size": 2048, "num_hidden_layers": 40, "num_attention_heads": 16,
    "num_key_value_heads": 2, "head_dim": 256, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
    "rope_theta": 1e4, "partial_rotary_factor": 0.25, "attention_bias": False, "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512, "num_experts_per_tok": 8, "num_experts": 256, "bos_token_id": None,
    "eos_token_id": None, **LINEAR_DEFAULTS,
}  # fmt: skip
_NESTED = layers_below("model.language_model.")


def _qkv(attention: LinearAttention) -> tuple[int, tuple[int, ...]]:
    keys = attention.num_key_heads * attention.key_dim
    return 1, (keys, keys, attention.num_value_heads * attention.value_dim)


def _either(name: str) -> tuple[str, str]:
    """A name at the top as the text model has it, and as it is inside the model that sees images."""
    return f"model.{name}", f"model.language_model.{name}"


NAMES = Names(
    tuple(
        layout
        for layers in (LAYERS, _NESTED)
        for layout in (
            per_expert("mlp", "gate_proj", "up_proj", "down_proj", layers=layers),
            fused("mlp", layers=layers),
        )
    ),
    {
        **HYBRID,
        **parts_of("linear_attn.in_proj_qkv.weight", ("linear_q", "linear_k", "linear_v"), _qkv),
        **{f"linear_{name}": f"linear_attn.in_proj_{name}.weight" for name in "zba"},
    },
    top=top_names(_either),
    layers=(LAYERS, _NESTED),
    left_out=(
        drafting_layers(re.compile(r"(model\.)?mtp\..*")),
        LeftOut(re.compile(r"(model\.)?visual\..*"), "the vision tower: text alone is run"),
    ),
)


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    reader = ConfigReader(without_grids(reader.data), reader.where)
    sizes = read_sizes(reader, generation, DEFAULTS)
    bias = reader.flag("attention_bias", DEFAULTS["attention_bias"])
    full = read_attention(reader, sizes, DEFAULTS, qk_norm="per_head", output_gate=True, qkv_bias=bias, o_bias=bias)
    num_layers = reader.num_layers(DEFAULTS["num_hidden_layers"])
    width = reader.count("shared_expert_intermediate_size", DEFAULTS["shared_expert_intermediate_size"])
    shared = SharedSpec(MlpSpec(width), gate=True)
    spec = ModelSpec(
        family=MODEL_TYPE,
        **vars(sizes),
        layers=[replace(layer, shared=shared) for layer in read_mixers(reader, num_layers, full)],
        router=RouterSpec(
            read_num_experts(reader, DEFAULTS["num_experts"], "num_experts"),
            read_top_k(reader, DEFAULTS),
            normalise=True,
        ),
        experts=ExpertSpec(reader.count("moe_intermediate_size", DEFAULTS["moe_intermediate_size"])),
    )
    reader.fixed("norm_topk_prob", True)
    reader.fixed("attn_output_gate", True)
    # states are float32 here whatever it says, and it says so
    reader.fixed("mamba_ssm_dtype", "float32")
    reader.finish()
    return spec
