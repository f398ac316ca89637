"""DeepSeek-V2 and -V3, Moonlight, GLM-4.5, GLM-4.7-Flash, dots.llm1: shared experts behind dense layers."""

from __future__ import annotations

from typing import Any

from hobbit_export.arch.deepseek import LATENT_ATTENTION
from hobbit_export.arch.names import Named
from hobbit_export.gguf.architectures.family import Family, Undo, has_bias, plain, taken_from
from hobbit_export.gguf.common import ModelKeys, decoder, head_dim, partial_rope, scaling, sizes, theta
from hobbit_export.gguf.keys import Keys, without_none
from hobbit_export.gguf.undo import with_shape

_SOFTMAX, _SIGMOID = 1, 2
_GLM = "glm4"
CHOICE: dict[str, Named] = {"router_selection_bias": "exp_probs_b.bias"}
LATENT: dict[str, Named] = {
    **taken_from(LATENT_ATTENTION, {"q": "attn_q.weight", "q_b": "attn_q_b.weight", "kv_a": "attn_kv_a_mqa.weight"}),
    "k_up": "attn_k_b.weight",
    "v_up": "attn_v_b.weight",
}
"""MLA of a layer; the matrices that widen keys and values have tensors of their own, keys' being transposed."""
LATENT_BEFORE = taken_from(LATENT_ATTENTION, dict.fromkeys(("k_up", "v_up"), "attn_kv_b.weight"))
"""Of files from before May 2025."""
UNDO_LATENT: dict[str, Undo] = {
    name: lambda weight, config: with_shape(weight, weight.rows, weight.cols) for name in ("k_up", "v_up")
}  # fmt: skip


def choice(found: ModelKeys) -> dict[str, Any]:
    """Read routed experts, and how a token chooses them and weighs what they give."""
    keys = found.keys
    groups = keys.count("expert_group_count") or 1
    chosen = keys.required("expert_group_used_count") if groups > 1 else keys.count("expert_group_used_count")
    return {
        "n_routed_experts": keys.required("expert_count"),
        "num_experts_per_tok": keys.required("expert_used_count"),
        "moe_intermediate_size": keys.required("expert_feed_forward_length"),
        "routed_scaling_factor": keys.number("expert_weights_scale") or 1.0,
        "norm_topk_prob": keys.flag("expert_weights_norm") or False,
        "n_group": groups,
        "topk_group": chosen or 1,
    }


def routed(found: ModelKeys) -> dict[str, Any]:
    """Read the same of experts beside shared ones and behind dense layers."""
    keys = found.keys
    return {
        **choice(found),
        "intermediate_size": keys.required("feed_forward_length"),
        "n_shared_experts": keys.count("expert_shared_count") or 0,
        "first_k_dense_replace": keys.count("leading_dense_block_count") or 0,
    }


def latent(found: ModelKeys) -> dict[str, Any]:
    """Read the widths of MLA: of what is kept, and of heads after it is widened."""
    keys = found.keys
    rank, turned = keys.required("attention.kv_lora_rank"), keys.required("rope.dimension_count")
    keys.by_layer("attention.head_count_kv", keys.num_blocks)  # 1 or all, as the file's program computes
    width, value = keys.count("attention.key_length_mla"), keys.count("attention.value_length_mla")
    if width is None:
        width, value = keys.required("attention.key_length"), keys.required("attention.value_length")
    else:
        keys.fixed("attention.key_length", rank + turned)
        keys.fixed("attention.value_length", rank)
    if width <= turned:
        raise keys.refuse("attention.key_length", width, f"Of them {turned} are rotated, and some are not.")
    return {
        "q_lora_rank": keys.count("attention.q_lora_rank") or None,
        "kv_lora_rank": rank,
        "qk_nope_head_dim": width - turned,
        "qk_rope_head_dim": turned,
        "v_head_dim": value,
    }


def _deepseek(found: ModelKeys) -> dict[str, Any]:
    keys = found.keys
    score = keys.count("expert_gating_func") or _SOFTMAX
    config = {**sizes(found), **routed(found), **latent(found), "rope_parameters": _rope(keys)}
    if score == _SIGMOID:
        return {**config, "model_type": "glm4_moe_lite" if found.pre_tokenizer == _GLM else "deepseek_v3"}
    if score != _SOFTMAX:
        raise keys.refuse("expert_gating_func", score, f"Supported: {_SOFTMAX} (softmax), {_SIGMOID} (sigmoid).")
    return {**config, "topk_method": "group_limited_greedy" if config["n_group"] > 1 else "greedy"}


def _rope(keys: Keys) -> dict[str, Any]:
    """Both factors of YaRN are the same in published models; a file has a tenth of the second."""
    log = keys.number("rope.scaling.yarn_log_multiplier")
    mscale = None if not log else round(10 * log, 6)  # a float32 has no more digits
    return {"rope_theta": theta(keys), **scaling(keys), **without_none({"mscale": mscale, "mscale_all_dim": mscale})}


def _glm(found: ModelKeys) -> dict[str, Any]:
    found.keys.fixed("expert_gating_func", _SIGMOID)
    config = {**decoder(found), **routed(found), "attention_bias": has_bias(found)}
    config["use_qk_norm"] = "blk.0.attn_q_norm.weight" in found.tensors
    return {**config, **partial_rope(found.keys, head_dim(config))}


def _dots(found: ModelKeys) -> dict[str, Any]:
    found.keys.fixed("expert_gating_func", _SIGMOID)
    return {**plain(found), **routed(found), "attention_bias": has_bias(found), "sliding_window": None}


FAMILIES = {
    "deepseek2": Family(
        "deepseek_v2",
        _deepseek,
        UNDO_LATENT,
        {**LATENT, **CHOICE},
        LATENT_BEFORE,
        also=("deepseek_v3", "glm4_moe_lite"),
    ),
    "glm4moe": Family("glm4_moe", _glm, tensors={**CHOICE, "ffn_norm": "post_attention_norm.weight"}),
    "dots1": Family("dots1", _dots, tensors=CHOICE),
}
