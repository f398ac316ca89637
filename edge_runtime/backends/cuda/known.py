"""Parts of a model that the kernels compute. What was added to a spec after they were written is found, and refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

_KNOWN: dict[str, str] = {
    "ModelSpec": "family vocab_size hidden rms_eps max_context layers router experts tied_embeddings bos_token_id "
    "eos_token_ids embedding_scale logit_softcap norm head_bias residual_scale logit_scale",
    "LayerSpec": "attention sparse dense shared output_norms scaled",
    "SoftmaxAttention": "kind num_heads num_kv_heads head_dim rope window qk_norm qkv_bias o_bias clip_qkv scale sinks "
    "output_gate shared_kv value_norm",
    "LatentAttention": "kind num_heads query_rank kv_rank nope_dim rope_dim value_dim rope scale bias norm_eps",
    "LinearAttention": "kind rule num_key_heads num_value_heads key_dim value_dim kernel conv_bias",
    "ShortConvolution": "kind kernel bias",
    "MlpSpec": "intermediate gated activation",
    "SharedSpec": "mlp gate parallel",
    "ExpertSpec": "intermediate gated activation bias limit alpha up_offset codes",
    "RouterSpec": "num_experts top_k score softmax_over near normalise norm_epsilon norm_floor scale "
    "logit_bias selection_bias groups expert_scale norm_scale",
    "GroupSpec": "count chosen score",
    "RopeSpec": "kind theta dim params pairs short_factor long_factor",
}
"""Any other field must have the value that changes nothing, its default. A router's norm is in its logits already."""
_VALUES: dict[str, tuple[str, ...]] = {
    "activation": ("silu", "gelu_tanh", "relu2"),
    "qk_norm": ("none", "per_head", "full", "per_head_rotated"),
    "norm": ("rms", "layer"),
    "codes": ("linear", "fp4"),
    "rule": ("gated_delta", "kimi_delta", "mamba2"),
    "softmax_over": ("all", "chosen", "near"),
    "score": ("softmax", "sigmoid", "sqrt_softplus", "max", "top2_sum"),
}
"""Words a field may have."""


def unknown_parts(part: Any, where: str) -> Iterator[str]:
    """Yield what a part of a spec asks for that no kernel computes.

    Args:
        part: of a `ModelSpec`.
        where: what it is, for the message.
    """
    for field in fields(part):
        name = field.name.replace("_", " ")
        if field.name in _KNOWN[type(part).__name__].split():
            if field.name in _VALUES and getattr(part, field.name) not in _VALUES[field.name]:
                yield f"{where} with {name} {getattr(part, field.name)!r}"
            continue
        neutral = field.default if field.default_factory is MISSING else field.default_factory()
        if getattr(part, field.name) != neutral:
            yield f"{where} with {name}"
