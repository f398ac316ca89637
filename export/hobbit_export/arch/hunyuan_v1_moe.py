"""model_type hunyuan_v1_moe: norms of each head after its rotation, one shared network, a stretched rope base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.base.spec import ExpertSpec, LayerSpec, MlpSpec, ModelSpec, RouterSpec, SharedSpec
from hobbit_export.arch.config import ConfigReader, number
from hobbit_export.arch.decoder import read_attention, read_num_experts, read_sizes
from hobbit_export.arch.names import ATTENTION, Names, fused, mlp_names, per_expert

MODEL_TYPE = "hunyuan_v1_moe"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 290943, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
    "rope_theta": 1e4, "moe_topk": 1, "num_experts": 1, "attention_bias": False, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
NAMES = Names(
    (per_expert("mlp", "gate_proj", "up_proj", "down_proj"), fused("mlp")),
    {
        **ATTENTION,
        "q_norm": "self_attn.query_layernorm.weight",
        "k_norm": "self_attn.key_layernorm.weight",
        "router": "mlp.gate.wg.weight",
        **mlp_names("shared", "mlp.shared_mlp"),
    },
)
# of other models of the series, or of this one's first code; the family's code in transformers reads none of them
_UNREAD = frozenset({
    "add_classification_head", "class_num", "pool_type", "skip_cls_token", "dense_list", "eod_token_id", "pad_id",
    "sep_token_id", "mask_init_id", "im_start_id", "im_end_id", "im_newline_id", "image_token_id", "text_start_id",
    "text_end_id", "video_start_id", "video_end_id", "num_media_embeds", "org_vocab_size", "max_image_size",
    "max_video_frames", "vit_path", "vit_type", "vit_mapping_type", "vit_token", "vit_used_rms_norm",
    "vit_norm_type", "vit_patch", "vit_add_patchemb_bias", "vit_input_resolution", "vit_remove_prenorm",
    "use_vit", "use_video", "anyres_pooling_size", "anyres_vit_max_image_size", "anyres_vit_two_views",
    "moe_drop_tokens", "moe_random_routing_dropped_token", "cla_share_factor", "xdrope_section",
    "position_embedding_xdrope", "attention_head_dim",
})  # fmt: skip


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    reader = _with_plain_rope(reader)
    sizes = read_sizes(reader, generation, DEFAULTS)
    num_layers = reader.num_layers(DEFAULTS["num_hidden_layers"])
    bias = reader.flag("attention_bias", DEFAULTS["attention_bias"])
    attention = read_attention(reader, sizes, DEFAULTS, qk_norm="per_head_rotated", qkv_bias=bias, o_bias=bias)
    intermediate = reader.count("intermediate_size", DEFAULTS["intermediate_size"])
    spec = ModelSpec(
        family=MODEL_TYPE,
        **vars(sizes),
        layers=[LayerSpec(attention, shared=SharedSpec(MlpSpec(intermediate)))] * num_layers,
        router=RouterSpec(
            read_num_experts(reader, DEFAULTS["num_experts"], "num_experts", "num_local_experts"),
            _top_k(reader, num_layers),
            normalise=True,
        ),
        experts=ExpertSpec(intermediate),
    )
    _check_neutral(reader, intermediate, num_layers)
    reader.finish(_UNREAD)
    return spec


def _with_plain_rope(reader: ConfigReader) -> ConfigReader:
    """Put plain rope in place of type "dynamic" with an `alpha`.

    transformers computes no more of it than a greater base, theta * alpha ** (C / (C - 2)), however long a text is.
    """
    name = "rope_scaling" if reader.data.get("rope_scaling") else "rope_parameters"
    rope = reader.data.get(name)
    if not isinstance(rope, dict) or not rope.get("alpha") or (rope.get("rope_type") or rope.get("type")) != "dynamic":
        return reader
    known = {"type", "rope_type", "rope_theta", "alpha", "factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"}
    for key in rope.keys() - known:
        raise reader.refuse(f"{name}.{key}", rope[key], "Rope type 'dynamic' with an alpha has no such parameter.")
    theta = next(
        (t for t in (rope.get("rope_theta"), reader.get("rope_theta")) if t is not None), DEFAULTS["rope_theta"]
    )
    alpha = number(rope["alpha"], f"{reader.where}: {name}.alpha")
    dim = reader.get("head_dim") or reader.count("hidden_size", DEFAULTS["hidden_size"]) // reader.count(
        "num_attention_heads", DEFAULTS["num_attention_heads"]
    )
    if alpha <= 0 or not isinstance(dim, int) or dim <= 2:
        raise reader.refuse(f"{name}.alpha", alpha, "Expected a number above 0, and heads of more than 2 numbers.")
    base = number(theta, f"{reader.where}: {name}.rope_theta") * alpha ** (dim / (dim - 2))
    plain = {"rope_type": "default", "rope_theta": base}
    return ConfigReader({**reader.data, "rope_scaling": None, "rope_parameters": plain}, reader.where)


def _top_k(reader: ConfigReader, num_layers: int) -> int:
    """Read how many experts a token has: a number, or a list of one for each layer."""
    key = "moe_topk" if reader.get("moe_topk") is not None else "num_experts_per_tok"
    return _same_in_all(reader, key, DEFAULTS["moe_topk"], num_layers)


def _same_in_all(reader: ConfigReader, key: str, default: int, num_layers: int) -> int:
    value = reader.get(key, default)
    if not isinstance(value, list):
        return reader.count(key, default)
    first = value[0] if value else None
    if len(value) < num_layers or any(each != first for each in value) or type(first) is not int or first < 1:
        raise reader.refuse(key, value, f"Expected one number, or {num_layers} equal ones.")
    return first


def _check_neutral(reader: ConfigReader, intermediate: int, num_layers: int) -> None:
    """Refuse values of keys that transformers does not read, where they ask for another model than it computes."""
    for key, expected in (("moe_intermediate_size", intermediate), ("num_shared_expert", 1)):
        if reader.get(key) is not None and (found := _same_in_all(reader, key, expected, num_layers)) != expected:
            raise reader.refuse(key, found, f"Only {expected} is implemented.")
    for key in ("use_mixed_mlp_moe", "use_qk_norm", "use_rotary_pos_emb", "norm_topk_prob"):
        reader.fixed(key, True)
    for key in ("use_cla", "use_mla", "group_limited_greedy", "n_group", "topk_group"):
        reader.fixed(key, False, None)
    for key in ("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
        reader.fixed(key, None)
    reader.fixed("routed_scaling_factor", False, None, 1.0)
    reader.fixed("moe_layer_num_skipped", 0)
    reader.fixed("norm_type", "rms")
