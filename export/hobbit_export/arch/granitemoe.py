"""model_types granitemoe and granitemoeshared: four multipliers, softmax over the chosen logits, fused experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edge_runtime.base.spec import ExpertSpec, LayerSpec, MlpSpec, ModelSpec, RouterSpec, SharedSpec
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import read_attention, read_num_experts, read_sizes, read_top_k
from hobbit_export.arch.names import ATTENTION, LAYERS, ExpertLayout, Names, fused

MODEL_TYPE = "granitemoe"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
    "rope_theta": 1e4, "num_experts_per_tok": 2, "num_local_experts": 8, "attention_bias": False,
    "embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_BLOCK = "block_sparse_moe"
# `input_linear` and `output_linear` are the published names, the others those of transformers 5 in memory
LAYOUTS = (
    ExpertLayout(*(f"{LAYERS}{_BLOCK}.{name}_linear.weight" for name in ("input", "input", "output"))),
    fused(_BLOCK),
)
NAMES = Names(LAYOUTS, {**ATTENTION, "router": (f"{_BLOCK}.router.layer.weight", f"{_BLOCK}.router.weight")})


@dataclass(frozen=True)
class Multipliers:
    """What the family multiplies by, under ModelSpec's names, and the scale of attention scores."""

    embedding_scale: float
    residual_scale: float
    logit_scale: float
    attention_scale: float

    def of_model(self) -> dict[str, Any]:
        """Return those that are fields of ModelSpec."""
        return {name: value for name, value in vars(self).items() if name != "attention_scale"}


def read_multipliers(reader: ConfigReader) -> Multipliers:
    """Read the four multipliers; logits are divided by theirs."""

    def number(key: str) -> float:
        return reader.number(key, DEFAULTS[key])

    scaling = number("logits_scaling")
    if scaling == 0:
        raise reader.refuse("logits_scaling", scaling, "Logits are divided by it.")
    return Multipliers(
        number("embedding_multiplier"), number("residual_multiplier"), 1 / scaling, number("attention_multiplier")
    )


def read_router(reader: ConfigReader) -> RouterSpec:
    """Read the family's router."""
    num_experts = read_num_experts(reader, DEFAULTS["num_local_experts"], "num_local_experts", "num_experts")
    return RouterSpec(num_experts, read_top_k(reader, DEFAULTS), softmax_over="chosen")


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    spec = read_decoder(reader, generation, MODEL_TYPE)
    reader.finish()
    return spec


def read_decoder(
    reader: ConfigReader, generation: Mapping[str, Any], family: str, shared: int = 0
) -> ModelSpec:  # fmt: skip
    """Build a spec whose layers are alike, with a shared network of width `shared` if there is one."""
    sizes = read_sizes(reader, generation, DEFAULTS)
    bias = reader.flag("attention_bias", DEFAULTS["attention_bias"])
    multipliers = read_multipliers(reader)
    attention = read_attention(reader, sizes, DEFAULTS, qkv_bias=bias, o_bias=bias)
    attention = replace(attention, scale=multipliers.attention_scale)
    layer = LayerSpec(attention, shared=SharedSpec(MlpSpec(shared)) if shared else None)
    return ModelSpec(
        family=family,
        **vars(sizes),
        **multipliers.of_model(),
        layers=[layer] * reader.num_layers(DEFAULTS["num_hidden_layers"]),
        router=read_router(reader),
        experts=ExpertSpec(reader.count("intermediate_size", DEFAULTS["intermediate_size"])),
    )
