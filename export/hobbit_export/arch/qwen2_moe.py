"""model_type qwen2_moe: shared expert with a gate, biases on q, k and v, sliding window by layer type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import ExpertSpec, LayerSpec, MlpSpec, ModelSpec, RouterSpec, SharedSpec
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import (
    Sizes,
    is_sparse,
    read_attention,
    read_num_experts,
    read_sizes,
    read_top_k,
    read_window,
    with_window,
)
from hobbit_export.arch.names import ATTENTION, Names, fused, mlp_names, per_expert

MODEL_TYPE = "qwen2_moe"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
    "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
    "rope_theta": 1e4, "num_experts_per_tok": 4, "num_experts": 60, "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632, "norm_topk_prob": False, "qkv_bias": True, "use_sliding_window": False,
    "sliding_window": 4096, "max_window_layers": 28, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
NAMES = Names(
    (per_expert("mlp", "gate_proj", "up_proj", "down_proj"), fused("mlp")),
    {
        **ATTENTION,
        "router": "mlp.gate.weight",
        **mlp_names("dense", "mlp"),
        **mlp_names("shared", "mlp.shared_expert"),
        "shared_expert_gate": "mlp.shared_expert_gate.weight",
    },
)


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    sizes = read_sizes(reader, generation, DEFAULTS)
    num_layers = reader.num_layers(DEFAULTS["num_hidden_layers"])
    windows = _windows(reader, num_layers)
    dense = reader.count("intermediate_size", DEFAULTS["intermediate_size"])
    shared = reader.count("shared_expert_intermediate_size", DEFAULTS["shared_expert_intermediate_size"])
    attention = read_attention(reader, sizes, DEFAULTS, qkv_bias=reader.flag("qkv_bias", DEFAULTS["qkv_bias"]))
    by_kind = {
        True: LayerSpec(attention, shared=SharedSpec(MlpSpec(shared), gate=True)),
        False: LayerSpec(attention, sparse=False, dense=MlpSpec(dense)),
    }
    layers = [
        replace(by_kind[sparse], attention=with_window(attention, window))
        for sparse, window in zip(is_sparse(reader, num_layers), windows, strict=True)
    ]
    spec = softmax_model(reader, MODEL_TYPE, sizes, DEFAULTS, layers)
    reader.finish()
    return spec


def softmax_model(
    reader: ConfigReader, family: str, sizes: Sizes, defaults: Mapping[str, Any], layers: list[LayerSpec]
) -> ModelSpec:  # fmt: skip
    """Build a model that routes by a softmax over all experts, for Qwen's families that do.

    Args:
        reader: config.json.
        family: its model_type.
        sizes: the model's.
        defaults: as for `read_sizes`.
        layers: the model's.
    """
    num_experts = read_num_experts(reader, defaults["num_experts"], "num_experts")
    normalise = reader.flag("norm_topk_prob", defaults["norm_topk_prob"])
    return ModelSpec(
        family=family,
        **vars(sizes),
        layers=layers,
        router=RouterSpec(num_experts, read_top_k(reader, defaults), normalise=normalise),
        experts=ExpertSpec(reader.count("moe_intermediate_size", defaults["moe_intermediate_size"])),
    )


def _windows(reader: ConfigReader, num_layers: int) -> list[int | None]:
    """Sliding window of each layer; transformers 5 alternates when `layer_types` is not given."""
    enabled = reader.flag("use_sliding_window", DEFAULTS["use_sliding_window"])
    window = read_window(reader, DEFAULTS["sliding_window"]) if enabled else None
    until = reader.count("max_window_layers", DEFAULTS["max_window_layers"], minimum=0)
    reader.get("sliding_window")  # says nothing while switched off
    types = reader.get("layer_types")
    if types is None:
        sliding = [enabled and i % 2 == 0 and i < until for i in range(num_layers)]
    else:
        if not isinstance(types, list) or not set(map(str, types)) <= {"full_attention", "sliding_attention"}:
            raise reader.refuse("layer_types", types, "Supported: full_attention, sliding_attention.")
        if len(types) < num_layers:
            raise ConfigError(f"{reader.where}: layer_types: expected {num_layers} entries, got {len(types)}.")
        sliding = [t == "sliding_attention" for t in types[:num_layers]]
    if any(sliding) and window is None:
        raise ConfigError(
            f"{reader.where}: layer_types asks for sliding attention, but use_sliding_window and sliding_window do not "
            "give a window. Set both, or use full_attention."
        )
    return [window if s else None for s in sliding]
