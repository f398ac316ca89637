"""model_type nemotron_h: layers of one part each: Mamba-2, attention without rope, experts, or a dense network.

Networks are up, relu squared, down. What transformers does otherwise than the model's authors: docs/adr/0094.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edge_runtime.base.spec import (
    ExpertSpec,
    GroupSpec,
    LayerSpec,
    LinearAttention,
    MlpSpec,
    ModelSpec,
    RouterSpec,
    SharedSpec,
    SoftmaxAttention,
)
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import read_num_experts, read_sizes, read_top_k
from hobbit_export.arch.mamba2 import mamba2, mamba2_names, no_time_limits
from hobbit_export.arch.names import LeftOut, Named, Names, fused, per_expert

MODEL_TYPE = "nemotron_h"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 21504, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 4096, "layer_norm_epsilon": 1e-5,
    "ssm_state_size": 128, "mamba_num_heads": 128, "mamba_head_dim": 64, "n_groups": 8, "conv_kernel": 4,
    "use_conv_bias": True, "n_routed_experts": 8, "moe_intermediate_size": 7688,
    "moe_shared_expert_intermediate_size": 7688, "num_experts_per_tok": 2, "routed_scaling_factor": 1.0, "n_group": 1,
    "topk_group": 1, "norm_topk_prob": True, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
NORM_EPSILON = 1e-20  # of the sum of a token's weights; the family's code has it as a constant
_DEFAULT_LAYERS = ["linear_attention", "moe", "full_attention", "mlp"]
_KINDS = {"M": "linear_attention", "*": "full_attention", "E": "moe", "-": "mlp"}
_OTHER_NAMES = {"mamba": "linear_attention", "attention": "full_attention"}
_LAYERS = "backbone.layers.{layer}."
_LAYER: dict[str, Named] = {
    "attn_norm": "norm.weight",
    "ffn_norm": "norm.weight",
    **{n: f"mixer.{n}_proj.weight" for n in "qkvo"},
    **mamba2_names("mixer"),
    "router": "mixer.gate.weight",
    "router_selection_bias": "mixer.gate.e_score_correction_bias",
    **{f"dense_{n}_proj": f"mixer.{n}_proj.weight" for n in ("up", "down")},
    **{f"shared_{n}_proj": f"mixer.shared_experts.{n}_proj.weight" for n in ("up", "down")},
}
# a block has one norm: `norm` of Mamba-2 lies below its mixer
_TOP: dict[str, Named] = {
    "embed": "backbone.embeddings.weight", "final_norm": "backbone.norm_f.weight", "head": "lm_head.weight",
}  # fmt: skip
NAMES = Names(
    (
        per_expert("mixer", "", "up_proj", "down_proj", layers=_LAYERS),
        fused("mixer", gated=False, layers=_LAYERS),
    ),
    _LAYER,
    top=_TOP,
    layers=_LAYERS,
    left_out=(LeftOut(re.compile(r"mtp\..*"), "layers that predict several tokens, which are not run"),),
)
# of training, of how states are stored and cut, and of rotary embeddings the family does not have
_UNREAD = frozenset({
    "chunk_size", "expand", "mamba_chunk_size", "mamba_expand", "mamba_ssm_cache_dtype", "use_mamba_kernels",
    "num_logits_to_keep", "rescale_prenorm_residual", "residual_in_fp32", "moe_shared_expert_overlap",
    "time_step_min", "time_step_max", "time_step_floor", "mamba_dt_min", "mamba_dt_max", "mamba_dt_init_floor",
    "mtp_layers_block_type", "mtp_hybrid_override_pattern", "rope_theta", "partial_rotary_factor", "norm_eps",
    "num_hidden_layers", "rope_parameters", "rope_scaling",
})  # fmt: skip


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    sizes = read_sizes(reader, generation, DEFAULTS, eps="layer_norm_epsilon")
    by_kind = _layers_by_kind(reader)
    spec = ModelSpec(
        family=MODEL_TYPE,
        **vars(sizes),
        layers=[by_kind[kind] for kind in _kinds(reader)],
        router=_router(reader),
        experts=ExpertSpec(
            reader.count("moe_intermediate_size", DEFAULTS["moe_intermediate_size"]), gated=False, activation="relu2"
        ),
    )
    for key in ("use_bias", "mlp_bias", "attention_bias", "mamba_proj_bias"):  # the last two are not read
        reader.fixed(key, False, None)
    reader.fixed("mlp_hidden_act", "relu2")
    reader.fixed("mamba_hidden_act", "silu")
    reader.fixed("n_shared_experts", 1)
    reader.fixed("moe_latent_size", None)
    reader.fixed("sliding_window", None)
    reader.finish(_UNREAD)
    return spec


def _layers_by_kind(reader: ConfigReader) -> dict[str, LayerSpec]:
    def network(key: str) -> MlpSpec:
        return MlpSpec(reader.count(key, DEFAULTS[key]), gated=False, activation="relu2")

    def count(key: str) -> int:
        return reader.count(key, DEFAULTS[key])

    heads = count("num_attention_heads")
    kv_heads = heads if reader.get("num_key_value_heads", 0) is None else count("num_key_value_heads")
    attention = SoftmaxAttention("full", heads, kv_heads, count("head_dim"), rope=None)
    shared = SharedSpec(network("moe_shared_expert_intermediate_size"))
    return {
        "linear_attention": LayerSpec(_recurrence(reader), sparse=False),
        "full_attention": LayerSpec(attention, sparse=False),
        "moe": LayerSpec(None, shared=shared),
        "mlp": LayerSpec(None, sparse=False, dense=network("intermediate_size")),
    }


def _recurrence(reader: ConfigReader) -> LinearAttention:
    def count(key: str, *others: str) -> int:
        given = next((each for each in (*others, key) if reader.get(each) is not None), key)
        return reader.count(given, DEFAULTS[key])

    no_time_limits(reader)
    no_time_limits(reader, "mamba_dt_limit")
    flag = "mamba_conv_bias" if reader.get("mamba_conv_bias") is not None else "use_conv_bias"
    reader.get("use_conv_bias")
    return mamba2(
        count("mamba_num_heads"), count("mamba_head_dim"), count("n_groups", "mamba_n_groups"),
        count("ssm_state_size"), count("conv_kernel", "mamba_d_conv"),
        conv_bias=reader.flag(flag, DEFAULTS["use_conv_bias"]),
    )  # fmt: skip


def _kinds(reader: ConfigReader) -> list[str]:
    """Read what each layer is: a list of kinds, or a pattern of one letter a layer."""
    pattern, listed = reader.get("hybrid_override_pattern"), reader.get("layers_block_type")
    listed = reader.get("layer_types") if listed is None else listed
    if listed is None and pattern is not None:
        if not isinstance(pattern, str) or not set(pattern) <= set(_KINDS):
            raise reader.refuse("hybrid_override_pattern", pattern, f"Expected letters of {''.join(_KINDS)}.")
        return [_KINDS[letter] for letter in pattern]
    listed = _DEFAULT_LAYERS if listed is None else listed
    kinds = [_OTHER_NAMES.get(str(kind), str(kind)) for kind in listed] if isinstance(listed, list) else []
    if not kinds or not set(kinds) <= set(_KINDS.values()):
        raise reader.refuse("layers_block_type", listed, f"Supported: {', '.join(_KINDS.values())}.")
    return kinds


def _router(reader: ConfigReader) -> RouterSpec:
    normalise = reader.flag("norm_topk_prob", DEFAULTS["norm_topk_prob"])
    count, chosen = (reader.count(key, DEFAULTS[key]) for key in ("n_group", "topk_group"))
    return RouterSpec(
        read_num_experts(reader, DEFAULTS["n_routed_experts"], "n_routed_experts", "num_local_experts"),
        read_top_k(reader, DEFAULTS),
        "sigmoid",
        normalise=normalise,
        norm_epsilon=NORM_EPSILON if normalise else 0.0,
        scale=reader.number("routed_scaling_factor", DEFAULTS["routed_scaling_factor"]),
        selection_bias=True,
        groups=GroupSpec(count, chosen, "top2_sum") if count > 1 else None,
    )
