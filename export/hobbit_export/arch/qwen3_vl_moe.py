"""model_type qwen3_vl_moe: its text part, a qwen3_moe. The vision tower is left out; text alone gives the same logits.

Text has the same position in all three grids of its interleaved rope, which is then the plain one, and the deep stack
adds to a layer's input where there are images alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edge_runtime.base.spec import ExpertSpec, LayerSpec, MlpSpec, ModelSpec, RouterSpec
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import is_sparse, read_attention, read_num_experts, read_sizes, read_top_k
from hobbit_export.arch.names import ATTENTION, TOP, LeftOut, Names, fused, mlp_names, per_expert
from hobbit_export.arch.nested import text_config

MODEL_TYPE = "qwen3_vl_moe"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
    "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 128000, "rms_norm_eps": 1e-6,
    "rope_theta": 5e5, "num_experts_per_tok": 4, "num_experts": 60, "moe_intermediate_size": 1408,
    "attention_bias": False, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
_BASE = "model.language_model."
_LAYERS = _BASE + "layers.{layer}."
NAMES = Names(
    (
        fused("mlp", transposed=True, layers=_LAYERS),
        fused("mlp", layers=_LAYERS),
        per_expert("mlp", "gate_proj", "up_proj", "down_proj", layers=_LAYERS),
    ),
    {**ATTENTION, "router": "mlp.gate.weight", **mlp_names("dense", "mlp")},
    top={name: tensor.replace("model.", _BASE) for name, tensor in TOP.items()},
    layers=_LAYERS,
    left_out=(LeftOut(re.compile(r"model\.visual\..*"), "the vision tower: text alone is run"),),
)


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    text = text_config(reader, tied=False)
    sizes = read_sizes(text, generation, DEFAULTS)
    num_layers = text.num_layers(DEFAULTS["num_hidden_layers"])
    bias = text.flag("attention_bias", DEFAULTS["attention_bias"])
    attention = read_attention(text, sizes, DEFAULTS, qk_norm="per_head", qkv_bias=bias, o_bias=bias)
    sparse = LayerSpec(attention)
    mlp = MlpSpec(text.count("intermediate_size", DEFAULTS["intermediate_size"]))
    dense = replace(sparse, sparse=False, dense=mlp)
    num_experts = read_num_experts(text, DEFAULTS["num_experts"], "num_experts", "num_local_experts")
    spec = ModelSpec(
        family=MODEL_TYPE,
        **vars(sizes),
        layers=[sparse if is_one else dense for is_one in is_sparse(text, num_layers)],
        router=RouterSpec(num_experts, read_top_k(text, DEFAULTS), normalise=True),
        experts=ExpertSpec(text.count("moe_intermediate_size", DEFAULTS["moe_intermediate_size"])),
    )
    text.fixed("norm_topk_prob", True)  # transformers divides by the sum whatever it says
    text.fixed("sliding_window", None)
    text.finish()
    return spec
