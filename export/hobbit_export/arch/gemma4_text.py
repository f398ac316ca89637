"""model_type gemma4_text: MoE models of Gemma 4, such as Gemma-4-26B-A4B, as decoders of text.

Windows in five of six layers; the sixth sees all tokens, with heads of its own, values that are its keys, and a rope of
its own. Every layer has a dense network in parallel with its experts, norms before and behind each part, and a router
with a norm of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import ExpertSpec, LayerSpec, MlpSpec, ModelSpec, RouterSpec, SharedSpec
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import read_num_experts, read_sizes
from hobbit_export.arch.gemma4_attention import read_attentions
from hobbit_export.arch.names import ATTENTION, LAYERS, TOP, ExpertLayout, LeftOut, Names, mlp_names

MODEL_TYPE = "gemma4_text"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 262144, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 30,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "attention_bias": False, "sliding_window": 512,
    "final_logit_softcapping": None, "hidden_size_per_layer_input": 256, "attention_k_eq_v": False,
    "num_kv_shared_layers": 0, "enable_moe_block": False, "num_experts": None, "top_k_experts": None,
    "moe_intermediate_size": None, "bos_token_id": 2, "eos_token_id": 1,
}  # fmt: skip
_PER_LAYER = (
    "Models with inputs of their own for each layer (Gemma 4 E2B and E4B) are dense and not run: "
    "choose one with experts, such as Gemma-4-26B-A4B."
)


def names(base: str) -> Names:
    """Names of a checkpoint whose decoder lies below `base`, such as ``model.``."""
    layers = LAYERS.replace("model.", base)
    return Names(
        (
            ExpertLayout(*(f"{layers}experts.{n}" for n in ("gate_up_proj", "gate_up_proj", "down_proj"))),
            ExpertLayout(*(f"{layers}experts.{{expert}}.{n}_proj.weight" for n in ("gate", "up", "down"))),
        ),
        {
            **ATTENTION,
            "attn_out_norm": "post_attention_layernorm.weight",
            "shared_norm": "pre_feedforward_layernorm.weight",
            "shared_out_norm": "post_feedforward_layernorm_1.weight",
            "ffn_norm": "pre_feedforward_layernorm_2.weight",
            "experts_out_norm": "post_feedforward_layernorm_2.weight",
            "ffn_out_norm": "post_feedforward_layernorm.weight",
            "layer_scale": "layer_scalar",
            **mlp_names("shared", "mlp"),
            "router": "router.proj.weight",
            "router_norm": "router.scale",
            "router_expert_scale": "router.per_expert_scale",
        },
        top={name: tensor.replace("model.", base) for name, tensor in TOP.items()},
        layers=layers,
        left_out=(
            LeftOut(re.compile(r"model\.(vision_tower|embed_vision)\..*"), "the vision tower: text alone is run"),
            LeftOut(re.compile(r"model\.(audio_tower|embed_audio)\..*"), "the audio tower: text alone is run"),
        ),
    )


NAMES = names("model.")


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    return read_text(reader, generation, MODEL_TYPE)


def read_text(reader: ConfigReader, generation: Mapping[str, Any], family: str) -> ModelSpec:
    """Build the spec of a family from the configuration of its text part."""
    _refuse_dense(reader)
    sizes = read_sizes(reader, generation, DEFAULTS)
    shared = SharedSpec(
        MlpSpec(reader.count("intermediate_size", DEFAULTS["intermediate_size"]), activation="gelu_tanh"), parallel=True
    )
    layers = [
        LayerSpec(attention, shared=shared, output_norms=True, scaled=True)
        for attention in read_attentions(reader, sizes, DEFAULTS)
    ]
    cap = reader.get("final_logit_softcapping")
    num_experts, top_k = read_num_experts(reader, 0, "num_experts"), reader.count("top_k_experts", None)
    spec = ModelSpec(
        family=family,
        **vars(sizes),
        layers=layers,
        router=RouterSpec(num_experts, top_k, normalise=True, expert_scale=True, norm_scale=sizes.hidden**-0.5),
        experts=ExpertSpec(reader.count("moe_intermediate_size", None), activation="gelu_tanh"),
        embedding_scale=sizes.hidden**0.5,
        logit_softcap=None if cap is None else reader.number("final_logit_softcapping", None),
    )
    reader.fixed("hidden_activation", "gelu_pytorch_tanh")
    # towers see their tokens in both directions; text is causal
    reader.fixed("use_bidirectional_attention", None, "vision")
    reader.finish(frozenset({"vocab_size_per_layer_input", "use_double_wide_mlp"}))  # of parts refused above
    return spec


def _refuse_dense(reader: ConfigReader) -> None:
    """Refuse the models of this family that have no experts, and what only they have."""
    if not reader.flag("enable_moe_block", DEFAULTS["enable_moe_block"]):
        raise ConfigError(
            f"{reader.where}: enable_moe_block: this model is dense: it has no experts to stream. "
            "Gemma-4-26B-A4B is the one with experts."
        )
    per_layer = reader.get("hidden_size_per_layer_input", DEFAULTS["hidden_size_per_layer_input"])
    if per_layer not in (None, 0):
        raise reader.refuse("hidden_size_per_layer_input", per_layer, _PER_LAYER)
    shared = reader.get("num_kv_shared_layers", DEFAULTS["num_kv_shared_layers"])
    if shared != 0:
        raise reader.refuse("num_kv_shared_layers", shared, "Layers that use the keys of others are not implemented.")
