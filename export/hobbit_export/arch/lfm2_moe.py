"""model_type lfm2_moe: short convolutions between layers of attention, sigmoid routing, the first layers dense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.base.spec import ExpertSpec, LayerSpec, MlpSpec, ModelSpec, RouterSpec, ShortConvolution
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import read_attention, read_layer_types, read_num_experts, read_sizes, read_top_k
from hobbit_export.arch.names import LAYERS, Named, Names, fused, per_expert

MODEL_TYPE = "lfm2_moe"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 65536, "hidden_size": 2048, "intermediate_size": 7168, "moe_intermediate_size": 1792,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 128000,
    "norm_eps": 1e-5, "rope_theta": 1e6, "num_experts": 32, "num_experts_per_tok": 4, "num_dense_layers": 2,
    "conv_L_cache": 3, "conv_bias": False, "use_expert_bias": True, "routed_scaling_factor": 1.0,
    "norm_topk_prob": True, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
NORM_EPSILON = 1e-6  # of the sum of a token's weights; the family's code has it as a constant
_MLP = "feed_forward"
_MATRICES = {"gate": "w1", "up": "w3", "down": "w2"}
_LAYER: dict[str, Named] = {
    "attn_norm": "operator_norm.weight",
    "ffn_norm": "ffn_norm.weight",
    **{n: f"self_attn.{n}_proj.weight" for n in "qkv"},
    "o": "self_attn.out_proj.weight",
    "q_norm": "self_attn.q_layernorm.weight",
    "k_norm": "self_attn.k_layernorm.weight",
    "conv": "conv.conv.weight",
    "conv_bias": "conv.conv.bias",
    **{f"conv_{n}": f"conv.{n}_proj.weight" for n in ("in", "out")},
    **{f"conv_{n}_bias": f"conv.{n}_proj.bias" for n in ("in", "out")},
    "router": f"{_MLP}.gate.weight",
    "router_selection_bias": f"{_MLP}.expert_bias",
    **{f"dense_{matrix}_proj": f"{_MLP}.{name}.weight" for matrix, name in _MATRICES.items()},
}
_TOP: dict[str, Named] = {
    "embed": "model.embed_tokens.weight", "final_norm": "model.embedding_norm.weight", "head": "lm_head.weight",
}  # fmt: skip
NAMES = Names((per_expert(_MLP, "w1", "w3", "w2"), fused(_MLP)), _LAYER, top=_TOP, layers=LAYERS)
_KINDS = ("conv", "full_attention")


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    reader = _as_stated_twice(reader)
    sizes = read_sizes(reader, generation, DEFAULTS, eps="norm_eps")
    num_layers = reader.num_layers(DEFAULTS["num_hidden_layers"])
    attention = read_attention(reader, sizes, DEFAULTS, qk_norm="per_head")
    convolution = ShortConvolution(
        "convolution",
        reader.count("conv_L_cache", DEFAULTS["conv_L_cache"]),
        bias=reader.flag("conv_bias", DEFAULTS["conv_bias"]),
    )
    kinds = read_layer_types(reader, num_layers, ["full_attention"] * num_layers, _KINDS)
    dense = reader.count("num_dense_layers", DEFAULTS["num_dense_layers"], minimum=0)
    mlp = MlpSpec(reader.count("intermediate_size", DEFAULTS["intermediate_size"]))
    layers = []
    for i, kind in enumerate(kinds):
        mixer = convolution if kind == "conv" else attention
        layers.append(LayerSpec(mixer, sparse=False, dense=mlp) if i < dense else LayerSpec(mixer))
    spec = ModelSpec(
        family=MODEL_TYPE,
        **vars(sizes),
        layers=layers,
        router=_router(reader),
        experts=ExpertSpec(reader.count("moe_intermediate_size", DEFAULTS["moe_intermediate_size"])),
    )
    reader.finish()
    return spec


def _router(reader: ConfigReader) -> RouterSpec:
    normalise = reader.flag("norm_topk_prob", DEFAULTS["norm_topk_prob"])
    return RouterSpec(
        read_num_experts(reader, DEFAULTS["num_experts"], "num_experts", "num_local_experts"),
        read_top_k(reader, DEFAULTS),
        "sigmoid",
        normalise=normalise,
        norm_epsilon=NORM_EPSILON if normalise else 0.0,
        scale=reader.number("routed_scaling_factor", DEFAULTS["routed_scaling_factor"]),
        selection_bias=reader.flag("use_expert_bias", DEFAULTS["use_expert_bias"]),
    )


def _as_stated_twice(reader: ConfigReader) -> ConfigReader:
    """Let `tie_embedding`, an earlier name, win over `tie_word_embeddings`, as transformers does."""
    tied = reader.get("tie_embedding")
    if tied is None:
        return reader
    data = {key: value for key, value in reader.data.items() if key != "tie_embedding"}
    return ConfigReader({**data, "tie_word_embeddings": tied}, reader.where)
