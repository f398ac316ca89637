"""model_type minimax_m2: partly rotated heads, norms over the whole width of q and k, sigmoid routing with a bias."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edge_runtime.base.spec import ExpertSpec, LayerSpec, ModelSpec, RouterSpec
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import read_attention, read_num_experts, read_sizes, read_top_k
from hobbit_export.arch.names import ATTENTION, LeftOut, Names, fused, per_expert

MODEL_TYPE = "minimax_m2"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 200064, "hidden_size": 3072, "intermediate_size": 1536, "num_hidden_layers": 62,
    "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 196608,
    "rms_norm_eps": 1e-6, "rope_theta": 5e6, "num_experts_per_tok": 8, "num_local_experts": 256,
    "bos_token_id": 200034, "eos_token_id": 200020,
}  # fmt: skip
_BLOCKS = ("block_sparse_moe", "mlp")  # the published spelling, and the one transformers 5 uses in memory
NAMES = Names(
    (*(per_expert(block, "w1", "w3", "w2") for block in _BLOCKS), *map(fused, _BLOCKS)),
    {
        **ATTENTION,
        "router": tuple(f"{block}.gate.weight" for block in _BLOCKS),
        "router_selection_bias": tuple(f"{block}.e_score_correction_bias" for block in _BLOCKS),
    },
    left_out=(LeftOut(re.compile(r".*\bmtp.*"), "layers that predict several tokens, which are not run"),),
)
# of the layers that predict several tokens
_UNREAD = frozenset({"mtp_transformer_layers", "num_mtp_modules", "use_mtp"})


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    sizes = read_sizes(reader, generation, DEFAULTS)
    head_dim = reader.count("head_dim", DEFAULTS["head_dim"])
    partial = 1.0
    if reader.get("rotary_dim") is not None:
        partial = reader.count("rotary_dim", None) / head_dim
    defaults = {**DEFAULTS, "partial_rotary_factor": partial}
    attention = read_attention(reader, sizes, defaults, qk_norm="full")
    num_experts = read_num_experts(reader, DEFAULTS["num_local_experts"], "num_local_experts", "num_experts")
    num_layers = reader.num_layers(DEFAULTS["num_hidden_layers"])
    spec = ModelSpec(
        family=MODEL_TYPE,
        **vars(sizes),
        layers=[LayerSpec(attention)] * num_layers,
        router=RouterSpec(num_experts, read_top_k(reader, DEFAULTS), "sigmoid", normalise=True, selection_bias=True),
        experts=ExpertSpec(reader.count("intermediate_size", DEFAULTS["intermediate_size"])),
    )
    _check_neutral(reader, num_layers)
    reader.finish(_UNREAD)
    return spec


def _check_neutral(reader: ConfigReader, num_layers: int) -> None:
    """Refuse values of keys that transformers does not read, where they ask for another model than it computes."""
    types = reader.get("attn_type_list")
    if types is not None and (not isinstance(types, list) or any(kind != 1 for kind in types[:num_layers])):
        raise reader.refuse("attn_type_list", types, "Only softmax attention (1) in all layers is implemented.")
    reader.fixed("scoring_func", "sigmoid")
    reader.fixed("use_qk_norm", True)
    reader.fixed("qk_norm_type", "per_layer")
    reader.fixed("use_routing_bias", True)
    reader.fixed("shared_intermediate_size", 0)
    reader.fixed("shared_moe_mode", "sigmoid", None)
    reader.fixed("attention_bias", False, None)
