"""model_type ernie4_5_moe: softmax routing with a bias for the choice, shared experts, heads rotated in pairs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edge_runtime.base.spec import ExpertSpec, LayerSpec, MlpSpec, ModelSpec, RouterSpec, SharedSpec
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import read_attention, read_num_experts, read_sizes
from hobbit_export.arch.names import ATTENTION, LeftOut, Names, fused, mlp_names, per_expert

MODEL_TYPE = "ernie4_5_moe"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 103424, "hidden_size": 2560, "intermediate_size": 12288, "num_hidden_layers": 28,
    "num_attention_heads": 20, "num_key_value_heads": 4, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 5e5, "moe_intermediate_size": 1536, "moe_k": 6, "moe_num_experts": 64, "moe_num_shared_experts": 2,
    "moe_layer_start_index": 1, "moe_layer_interval": 1, "moe_norm_min": 1e-12, "tie_word_embeddings": True,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_BIAS = "moe_statics.e_score_correction_bias"
NAMES = Names(
    (per_expert("mlp", "gate_proj", "up_proj", "down_proj"), fused("mlp")),
    {
        **ATTENTION,
        "router": "mlp.gate.weight",
        "router_selection_bias": (f"mlp.{_BIAS}", f"mlp.gate.{_BIAS}"),
        **mlp_names("dense", "mlp"),
        **mlp_names("shared", "mlp.shared_experts"),
    },
    left_out=(LeftOut(re.compile(r"(model\.)?mtp.*"), "layers that predict several tokens, which are not run"),),
)
# how the first code trained and served the model; the family's code in transformers reads none of them
_UNREAD = frozenset({
    "moe_capacity", "moe_gate", "moe_use_aux_free", "num_nextn_predict_layers", "moe_aux_loss_lambda",
    "moe_orthogonal_loss_lambda", "moe_z_loss_lambda", "compression_ratio", "sliding_window",
})  # fmt: skip


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    sizes = read_sizes(reader, generation, DEFAULTS)
    attention = read_attention(reader, sizes, DEFAULTS)
    assert attention.rope is not None, "read_attention reads one"
    attention = replace(attention, rope=replace(attention.rope, pairs=True))
    intermediate = reader.count("moe_intermediate_size", DEFAULTS["moe_intermediate_size"])
    shared = reader.count("moe_num_shared_experts", DEFAULTS["moe_num_shared_experts"], minimum=0)
    dense = LayerSpec(
        attention, sparse=False, dense=MlpSpec(reader.count("intermediate_size", DEFAULTS["intermediate_size"]))
    )
    sparse = LayerSpec(attention, shared=SharedSpec(MlpSpec(shared * intermediate)) if shared else None)
    num_experts = read_num_experts(reader, DEFAULTS["moe_num_experts"], "moe_num_experts", "num_experts")
    spec = ModelSpec(
        family=MODEL_TYPE,
        **vars(sizes),
        layers=[sparse if is_sparse else dense for is_sparse in _sparse_layers(reader)],
        router=RouterSpec(
            num_experts,
            read_num_experts(reader, DEFAULTS["moe_k"], "moe_k", "num_experts_per_tok"),
            normalise=True,
            norm_floor=reader.number("moe_norm_min", DEFAULTS["moe_norm_min"]),
            selection_bias=True,
        ),
        experts=ExpertSpec(intermediate),
    )
    reader.fixed("use_bias", False, None)
    reader.finish(_UNREAD)
    return spec


def _sparse_layers(reader: ConfigReader) -> list[bool]:
    """Which layers route: every so many from the first such one to the last, -1 being the model's last."""
    layers = reader.num_layers(DEFAULTS["num_hidden_layers"])
    step = reader.count("moe_layer_interval", DEFAULTS["moe_layer_interval"])
    start = reader.count("moe_layer_start_index", DEFAULTS["moe_layer_start_index"], minimum=0)
    end = reader.count("moe_layer_end_index", -1, minimum=-1)
    last = layers - 1 if end == -1 else end
    return [(i + 1) % step == 0 and start <= i <= last for i in range(layers)]
