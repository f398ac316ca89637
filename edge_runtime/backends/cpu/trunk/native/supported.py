"""Which models the native trunk runs. What it does not know it leaves to ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

from edge_runtime.base.spec import LayerSpec, ModelSpec, rope_of

_KNOWN: dict[str, str] = {
    "ModelSpec": "family vocab_size hidden rms_eps max_context layers router experts tied_embeddings bos_token_id "
    "eos_token_ids embedding_scale logit_softcap norm head_bias residual_scale logit_scale",
    "LayerSpec": "attention sparse dense shared output_norms scaled",
    "LatentAttention": "kind num_heads query_rank kv_rank nope_dim rope_dim value_dim rope scale bias norm_eps",
    "LinearAttention": "kind rule num_key_heads num_value_heads key_dim value_dim kernel conv_bias",
    "ShortConvolution": "kind kernel bias",
    "SoftmaxAttention": "kind num_heads num_kv_heads head_dim rope window qk_norm qkv_bias o_bias clip_qkv scale sinks "
    "output_gate shared_kv value_norm",
    "MlpSpec": "intermediate gated activation",
    "SharedSpec": "mlp gate parallel",
    "RopeSpec": "kind theta dim params short_factor long_factor pairs",
}
"""Any other field must have the value that changes nothing, its default."""
_WORDS: dict[str, tuple[str, ...]] = {
    "norm": ("rms", "layer"),
    "activation": ("silu", "gelu_tanh", "relu2"),
    "rule": ("gated_delta", "kimi_delta", "mamba2"),
    "qk_norm": ("none", "per_head", "full", "per_head_rotated"),
}
"""What fields of words may have."""


def why_not(spec: ModelSpec) -> str:
    """Say what of a model the native trunk does not compute; "" if it computes all of it."""
    return next(_problems(spec), "")


def _problems(spec: ModelSpec) -> Iterator[str]:
    yield from _unknown(spec, "model")
    for i, layer in enumerate(spec.layers):
        yield from _layer_problems(layer, f"layer {i}")


def _layer_problems(layer: LayerSpec, where: str) -> Iterator[str]:
    yield from _unknown(layer, where)
    attention = layer.attention
    if attention is not None:
        yield from _unknown(attention, f"{where}: attention")
        if (rope := rope_of(attention)) is not None:
            yield from _unknown(rope, f"{where}: rope")
    if layer.dense is not None:
        yield from _unknown(layer.dense, f"{where}: dense network")
    if layer.shared is not None:
        yield from _unknown(layer.shared, f"{where}: shared expert")
        yield from _unknown(layer.shared.mlp, f"{where}: shared expert")


def _unknown(part: Any, where: str) -> Iterator[str]:
    """Yield what a part of a spec asks for that was added after the kernels were written."""
    for field in fields(part):
        name, value = field.name, getattr(part, field.name)
        if name in _KNOWN[type(part).__name__].split():
            if name in _WORDS and value not in _WORDS[name]:
                yield f"{where} with {name} {value!r}"
            continue
        neutral = field.default if field.default_factory is MISSING else field.default_factory()
        if value != neutral:
            yield f"{where} with {name}"
