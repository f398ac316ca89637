"""Qwen's families of softmax attention: qwen2moe, qwen3moe and the text part of qwen3vlmoe."""

from __future__ import annotations

from typing import Any

from hobbit_export.gguf.architectures.family import Family, has_bias, one_row, plain
from hobbit_export.gguf.common import ModelKeys, intermediate


def experts(found: ModelKeys, *, normalise: bool) -> dict[str, Any]:
    """Read what the experts of these families have in common."""
    found.keys.fixed("expert_weights_norm", normalise)
    width = intermediate(found, "expert_feed_forward_length", "blk.0.ffn_gate_exps.weight")
    return {
        "num_experts": found.keys.required("expert_count"),
        "norm_topk_prob": normalise,
        "moe_intermediate_size": width,
    }


def _qwen2(found: ModelKeys) -> dict[str, Any]:
    config = {**plain(found), **experts(found, normalise=False)}
    config["intermediate_size"] = found.keys.required("feed_forward_length")
    config["shared_expert_intermediate_size"] = intermediate(
        found, "expert_shared_feed_forward_length", "blk.0.ffn_gate_shexp.weight"
    )
    config["qkv_bias"] = has_bias(found)
    return config


def _qwen3(found: ModelKeys) -> dict[str, Any]:
    config = {**plain(found), **experts(found, normalise=True)}
    config["intermediate_size"] = found.keys.required("feed_forward_length")
    config["attention_bias"] = has_bias(found)
    return config


def _qwen3_vl(found: ModelKeys) -> dict[str, Any]:
    """Of text, all three parts of a position are the same, whatever the sections of the rope."""
    found.keys.numbers("rope.dimension_sections", 4)
    found.keys.count("n_deepstack_layers")  # layers whose input images are added to
    config = _qwen3(found)
    tied = config.pop("tie_word_embeddings")
    return {"text_config": {**config, "model_type": "qwen3_vl_moe_text"}, "tie_word_embeddings": tied}


FAMILIES = {
    "qwen2moe": Family("qwen2_moe", _qwen2, {"shared_expert_gate": one_row}),
    "qwen3moe": Family("qwen3_moe", _qwen3),
    "qwen3vlmoe": Family("qwen3_vl_moe", _qwen3_vl),
}
