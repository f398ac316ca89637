"""model_type dots1 (dots.llm1): norms on each head's q and k, sigmoid router, shared experts, late windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.base.spec import ModelSpec
from hobbit_export.arch import deepseek
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import read_attention, read_layer_types, read_sizes, read_window, with_window
from hobbit_export.arch.names import ATTENTION, Names, fused, per_expert

MODEL_TYPE = "dots1"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 152064, "hidden_size": 4608, "intermediate_size": 10944, "num_hidden_layers": 62,
    "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
    "rope_theta": 1e4, "attention_bias": False, "moe_intermediate_size": 1408, "num_experts_per_tok": None,
    "n_shared_experts": None, "n_routed_experts": None, "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 0, "norm_topk_prob": False, "sliding_window": 4096, "max_window_layers": 62,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
NAMES = Names(
    (per_expert("mlp", "gate_proj", "up_proj", "down_proj"), fused("mlp")), {**ATTENTION, **deepseek.MOE_NAMES}
)  # fmt: skip
_KINDS = ("full_attention", "sliding_attention")


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    sizes = read_sizes(reader, generation, DEFAULTS)
    num_layers = reader.num_layers(DEFAULTS["num_hidden_layers"])
    bias = reader.flag("attention_bias", DEFAULTS["attention_bias"])
    attention = read_attention(reader, sizes, DEFAULTS, qk_norm="per_head", qkv_bias=bias, o_bias=bias)
    mixers = [with_window(attention, window) for window in _windows(reader, num_layers)]
    sparse = deepseek.first_dense(reader, DEFAULTS, num_layers)
    # published configurations name the method of the choice as the score
    spec = deepseek.sigmoid_model(reader, MODEL_TYPE, sizes, DEFAULTS, mixers, sparse, "noaux_tc")
    reader.finish()
    return spec


def _windows(reader: ConfigReader, num_layers: int) -> list[int | None]:
    """Window of each layer: of those from `max_window_layers` on, unless `layer_types` says which."""
    window = read_window(reader, DEFAULTS["sliding_window"])
    first = reader.count("max_window_layers", DEFAULTS["max_window_layers"], minimum=0)
    late = [_KINDS[window is not None and i >= first] for i in range(num_layers)]
    kinds = read_layer_types(reader, num_layers, late, _KINDS)
    if window is None and "sliding_attention" in kinds:
        raise reader.refuse("layer_types", "sliding_attention", "There is no sliding_window. Give one.")
    return [window if kind == "sliding_attention" else None for kind in kinds]
