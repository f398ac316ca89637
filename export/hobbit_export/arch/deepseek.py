"""What families after DeepSeek's designs share: MLA, dense first layers, shared experts, groups, drafting layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import (
    AttentionSpec,
    ExpertSpec,
    GroupSpec,
    LatentAttention,
    LayerSpec,
    MlpSpec,
    ModelSpec,
    RopeSpec,
    RouterSpec,
    SharedSpec,
)
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import Sizes, read_num_experts, read_top_k
from hobbit_export.arch.names import Named, mlp_names
from hobbit_export.arch.rope import read_rope
from hobbit_export.latent_parts import Halves, HeadColumns
from hobbit_export.weight_parts import HeadRows


def _kept(a: LatentAttention) -> tuple[int, tuple[int, ...]]:
    return 1, (a.kv_rank, a.rope_dim)


def _queries(a: LatentAttention) -> tuple[int, tuple[int, ...]]:
    return a.num_heads, (a.nope_dim, a.rope_dim)


def _expanded(a: LatentAttention) -> tuple[int, tuple[int, ...]]:
    return a.num_heads, (a.nope_dim, a.value_dim)


LATENT_ATTENTION: Mapping[str, Named] = {
    "attn_norm": "input_layernorm.weight",
    "ffn_norm": "post_attention_layernorm.weight",
    "q": Halves("self_attn.q_proj.weight", _queries),
    "q_a": "self_attn.q_a_proj.weight",
    "q_a_bias": "self_attn.q_a_proj.bias",
    "q_a_norm": "self_attn.q_a_layernorm.weight",
    "q_b": Halves("self_attn.q_b_proj.weight", _queries),
    "kv_a": Halves("self_attn.kv_a_proj_with_mqa.weight", _kept),
    "kv_a_bias": Halves("self_attn.kv_a_proj_with_mqa.bias", _kept),
    "kv_a_norm": "self_attn.kv_a_layernorm.weight",
    "k_up": HeadColumns("self_attn.kv_b_proj.weight", 0, _expanded),
    "v_up": HeadRows("self_attn.kv_b_proj.weight", 1, _expanded),
    "o": "self_attn.o_proj.weight",
    "o_bias": "self_attn.o_proj.bias",
}
"""Norms and MLA of a layer, as DeepSeek calls them. Checkpoints hold the rotated rows in pairs."""
DRAFTING = "layers that draft further tokens, which are not run"
MOE_NAMES: Mapping[str, Named] = {
    "router": "mlp.gate.weight",
    "router_selection_bias": "mlp.gate.e_score_correction_bias",
    **mlp_names("dense", "mlp"),
    **mlp_names("shared", "mlp.shared_experts"),
}
"""Router, dense network and shared experts of a layer."""
_NORM_EPS = 1e-6  # of MLA's own norms, whatever the model's
_EPSILON = 1e-20  # beside the sum the weights are divided by


def first_dense(reader: ConfigReader, defaults: Mapping[str, Any], num_layers: int) -> list[bool]:
    """Which layers route to experts: all behind the first `first_k_dense_replace`."""
    dense = reader.count("first_k_dense_replace", defaults["first_k_dense_replace"], minimum=0)
    reader.fixed("moe_layer_freq", 1, None)
    return [i >= dense for i in range(num_layers)]


def by_list(reader: ConfigReader, num_layers: int, dense: int) -> list[bool]:
    """Which layers route to experts: what `mlp_layer_types` says, else all behind the first `dense` ones."""
    kinds = reader.get("mlp_layer_types")
    reader.fixed("moe_layer_freq", 1, None)
    if kinds is None:
        return [i >= dense for i in range(num_layers)]
    if not isinstance(kinds, list) or not set(map(str, kinds)) <= {"dense", "sparse"} or len(kinds) < num_layers:
        raise ConfigError(
            f"{reader.where}: mlp_layer_types: expected 'dense' or 'sparse' of {num_layers} layers, "
            f"got {str(kinds)[:60]}."
        )
    return [kind == "sparse" for kind in kinds[:num_layers]]


def read_layers(
    reader: ConfigReader, defaults: Mapping[str, Any], attention: Sequence[AttentionSpec], sparse: Sequence[bool]
) -> list[LayerSpec]:
    """Read the feed-forward part of each layer: a dense network, or experts beside shared ones."""
    dense = MlpSpec(reader.count("intermediate_size", defaults["intermediate_size"]))
    width = reader.count("moe_intermediate_size", defaults["moe_intermediate_size"])
    count = reader.count("n_shared_experts", defaults["n_shared_experts"], minimum=0)
    shared = SharedSpec(MlpSpec(count * width)) if count else None
    return [
        LayerSpec(mixer, shared=shared) if routes else LayerSpec(mixer, sparse=False, dense=dense)
        for mixer, routes in zip(attention, sparse, strict=True)
    ]


def read_experts(reader: ConfigReader, defaults: Mapping[str, Any]) -> ExpertSpec:
    """Read what a routed expert computes."""
    return ExpertSpec(reader.count("moe_intermediate_size", defaults["moe_intermediate_size"]))


def read_sigmoid_router(reader: ConfigReader, defaults: Mapping[str, Any], *scorings: str) -> RouterSpec:
    """Read the router of DeepSeek-V3: sigmoid, a bias for the choice, the two best of a group.

    Args:
        reader: config.json.
        defaults: as for `read_sizes`.
        *scorings: further spellings of its `scoring_func`.
    """
    reader.fixed("scoring_func", "sigmoid", *scorings, None)
    reader.fixed("topk_method", "noaux_tc", None)
    normalise = reader.flag("norm_topk_prob", defaults["norm_topk_prob"])
    return RouterSpec(
        read_routed(reader, defaults),
        read_top_k(reader, defaults),
        "sigmoid",
        normalise=normalise,
        norm_epsilon=_EPSILON if normalise else 0.0,
        scale=reader.number("routed_scaling_factor", defaults["routed_scaling_factor"]),
        selection_bias=True,
        groups=read_groups(reader, defaults, "top2_sum"),
    )


def sigmoid_model(
    reader: ConfigReader, family: str, sizes: Sizes, defaults: Mapping[str, Any], mixers: Sequence[AttentionSpec],
    sparse: Sequence[bool], *scorings: str,
) -> ModelSpec:  # fmt: skip
    """Build a model of layers that are dense or route by sigmoids to experts beside shared ones.

    Args:
        reader: config.json.
        family: its model_type.
        sizes: the model's.
        defaults: as for `read_sizes`.
        mixers: attention of each layer.
        sparse: which layers route.
        *scorings: as for `read_sigmoid_router`.
    """
    return ModelSpec(
        family=family,
        **vars(sizes),
        layers=read_layers(reader, defaults, mixers, sparse),
        router=read_sigmoid_router(reader, defaults, *scorings),
        experts=read_experts(reader, defaults),
    )


def read_routed(reader: ConfigReader, defaults: Mapping[str, Any]) -> int:
    """Read the number of routed experts."""
    default = defaults["n_routed_experts"] if "n_routed_experts" in defaults else defaults["num_local_experts"]
    return read_num_experts(reader, default, "n_routed_experts", "num_local_experts", "num_experts")


def read_groups(reader: ConfigReader, defaults: Mapping[str, Any], score: Any) -> GroupSpec | None:
    """Read groups of experts; one group of which one is chosen is none."""
    count, chosen = (reader.count(key, defaults[key]) for key in ("n_group", "topk_group"))
    if chosen > count:
        raise ConfigError(f"{reader.where}: topk_group: expected at most n_group = {count}, got {chosen}.")
    return None if chosen == count else GroupSpec(count, chosen, score)


def read_latent_attention(
    reader: ConfigReader, sizes: Sizes, defaults: Mapping[str, Any], *, has_rope: bool = True
) -> LatentAttention:
    """Read MLA.

    Args:
        reader: config.json.
        sizes: the model's.
        defaults: as for `read_sizes`.
        has_rope: the family rotates.
    """
    heads = reader.count("num_attention_heads", defaults["num_attention_heads"])
    nope, turned, value, rank = (
        reader.count(key, defaults[key])
        for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank")
    )
    low = reader.get("q_lora_rank", defaults["q_lora_rank"])
    for key, only in (("num_key_value_heads", heads), ("head_dim", turned), ("qk_head_dim", nope + turned)):
        reader.fixed(key, only, None)
    reader.fixed("rope_interleave", True, None)
    rope = None
    if has_rope:
        rope = read_rope(reader, turned, sizes.max_context, defaults["rope_theta"])
    return LatentAttention(
        "mla",
        heads,
        None if low is None else reader.count("q_lora_rank", defaults["q_lora_rank"]),
        rank,
        nope,
        turned,
        value,
        rope,
        scale=_scale(rope, nope + turned),
        bias=reader.flag("attention_bias", defaults["attention_bias"]),
        norm_eps=_NORM_EPS,
    )


def _scale(rope: RopeSpec | None, width: int) -> float | None:
    """Return the scale of scores where YaRN changes it: `mscale_all_dim` counts twice, for queries and keys."""
    all_dim = 0.0 if rope is None else rope.params.get("mscale_all_dim", 0.0)
    if rope is None or not all_dim:
        return None
    factor = rope.params["factor"]
    mscale = 1.0 if factor <= 1 else 0.1 * all_dim * math.log(factor) + 1.0
    return float(width**-0.5 * mscale * mscale)
