"""Model shapes as manifests of version 1 and traces of version 2 hold them, read into today's parts.

That version knew softmax routers, SwiGLU experts without biases, and one attention for all layers but its window.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edge_runtime.base.spec.attention import QkNorm, SoftmaxAttention
from edge_runtime.base.spec.checks import need
from edge_runtime.base.spec.mlp import ExpertSpec, MlpSpec, SharedSpec
from edge_runtime.base.spec.model import LayerSpec, ModelSpec, check_spec
from edge_runtime.base.spec.rope import RopeSpec
from edge_runtime.base.spec.router import RouterSpec
from edge_runtime.base.strict import from_mapping


@dataclass(frozen=True)
class _Layer:
    sparse: bool
    sliding_window: int | None = None
    dense_intermediate: int | None = None
    shared_intermediate: int | None = None


@dataclass(frozen=True)
class _Model:
    family: str
    vocab_size: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_eps: float
    max_context: int
    rope: RopeSpec
    layers: list[_Layer]
    num_experts: int
    top_k: int
    expert_intermediate: int
    norm_topk_prob: bool
    qk_norm: QkNorm = "none"
    qkv_bias: bool = False
    o_bias: bool = False
    clip_qkv: float | None = None
    shared_expert_gate: bool = False
    tied_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_ids: list[int] = field(default_factory=list)


def model_from_version1(data: Any, where: str = "model") -> ModelSpec:
    """Build a spec from untrusted plain data of the old shape.

    Raises:
        ValueError: a key is unknown, missing, of the wrong type, or a size is out of range.
    """
    old = from_mapping(_Model, data, where)
    for i, layer in enumerate(old.layers):
        has_mlp = layer.sparse or bool(layer.dense_intermediate)
        need(has_mlp, f"{where}.layers[{i}]", "sparse or dense_intermediate", layer)
    spec = ModelSpec(
        family=old.family,
        vocab_size=old.vocab_size,
        hidden=old.hidden,
        rms_eps=old.rms_eps,
        max_context=old.max_context,
        layers=[_layer(old, layer) for layer in old.layers],
        router=RouterSpec(old.num_experts, old.top_k, normalise=old.norm_topk_prob),
        experts=ExpertSpec(old.expert_intermediate),
        tied_embeddings=old.tied_embeddings,
        bos_token_id=old.bos_token_id,
        eos_token_ids=old.eos_token_ids,
    )
    check_spec(spec, where)
    return spec


def _layer(model: _Model, layer: _Layer) -> LayerSpec:
    attention = SoftmaxAttention(
        kind="full" if layer.sliding_window is None else "sliding",
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        rope=model.rope,
        window=layer.sliding_window,
        qk_norm=model.qk_norm,
        qkv_bias=model.qkv_bias,
        o_bias=model.o_bias,
        clip_qkv=model.clip_qkv,
    )
    if not layer.sparse:
        return LayerSpec(attention, sparse=False, dense=MlpSpec(layer.dense_intermediate or 0))
    shared = layer.shared_intermediate
    return LayerSpec(
        attention, shared=None if shared is None else SharedSpec(MlpSpec(shared), gate=model.shared_expert_gate)
    )
