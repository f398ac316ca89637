"""Model specs in a few words, for tests that need one and do not care about its parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edge_runtime.base.spec import (
    ExpertSpec,
    LayerSpec,
    MlpSpec,
    ModelSpec,
    RopeSpec,
    RouterSpec,
    SharedSpec,
    SoftmaxAttention,
)

_ATTENTION = ("num_heads", "num_kv_heads", "head_dim", "rope", "qk_norm", "qkv_bias", "o_bias", "clip_qkv")
_ROUTER = ("num_experts", "top_k", "score", "normalise", "scale", "selection_bias", "groups", "expert_scale")
_DEFAULTS: dict[str, Any] = {
    "family": "qwen3_moe", "vocab_size": 64, "hidden": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16,
    "rms_eps": 1e-6, "max_context": 128, "rope": None, "num_experts": 4, "top_k": 2, "intermediate": 32,
    "normalise": True, "shared_gate": False,
}  # fmt: skip


def layer(*, window: int | None = None, dense: int | None = None, shared: int | None = None) -> dict[str, int | None]:
    """One layer for `model_spec`: sparse unless it has the width of a dense MLP."""
    return {"window": window, "dense": dense, "shared": shared}


def model_spec(*layers: dict[str, int | None], **changes: Any) -> ModelSpec:
    """A small qwen3_moe with all that is given changed; the fields of all parts are given side by side."""
    values = _DEFAULTS | changes
    rope = values["rope"] or RopeSpec("default", 1e4, values["head_dim"])
    attention = SoftmaxAttention("full", **{n: values.pop(n) for n in _ATTENTION if n in values} | {"rope": rope})
    router = RouterSpec(**{name: values.pop(name) for name in _ROUTER if name in values})
    gate = values.pop("shared_gate")
    experts = values.pop("experts", None) or ExpertSpec(values["intermediate"])
    del values["intermediate"]
    made = [_layer(attention, gate, **one) for one in layers or (layer(), layer())]
    return ModelSpec(layers=made, router=router, experts=experts, **values)


def _layer(
    attention: SoftmaxAttention, gate: bool, window: int | None, dense: int | None, shared: int | None
) -> LayerSpec:
    if window is not None:
        attention = replace(attention, kind="sliding", window=window)
    if dense is not None:
        return LayerSpec(attention, sparse=False, dense=MlpSpec(dense))
    return LayerSpec(attention, shared=None if shared is None else SharedSpec(MlpSpec(shared), gate))


def version1(spec: ModelSpec) -> dict[str, Any]:
    """The shape as manifests of version 1 and traces of version 2 hold it: what older programs wrote."""
    attention = spec.attention
    return {
        "family": spec.family, "vocab_size": spec.vocab_size, "hidden": spec.hidden,
        "num_heads": attention.num_heads, "num_kv_heads": attention.num_kv_heads, "head_dim": attention.head_dim,
        "rms_eps": spec.rms_eps, "max_context": spec.max_context,
        "rope": {"kind": attention.rope.kind, "theta": attention.rope.theta, "dim": attention.rope.dim,
                 "params": dict(attention.rope.params)},
        "layers": [
            {"sparse": one.sparse, "sliding_window": one.window,
             "dense_intermediate": one.dense and one.dense.intermediate,
             "shared_intermediate": one.shared and one.shared.mlp.intermediate}
            for one in spec.layers
        ],
        "num_experts": spec.num_experts, "top_k": spec.top_k, "expert_intermediate": spec.experts.intermediate,
        "norm_topk_prob": spec.router.normalise, "qk_norm": attention.qk_norm, "qkv_bias": attention.qkv_bias,
        "o_bias": attention.o_bias, "clip_qkv": attention.clip_qkv,
        "shared_expert_gate": any(one.shared and one.shared.gate for one in spec.layers),
        "tied_embeddings": spec.tied_embeddings, "bos_token_id": spec.bos_token_id,
        "eos_token_ids": list(spec.eos_token_ids),
    }  # fmt: skip
