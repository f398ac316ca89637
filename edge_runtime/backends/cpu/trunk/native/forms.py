"""What a model's layers compute, in the words of the kernels; the weights are read elsewhere."""

from __future__ import annotations

from edge_runtime.backends.cpu.kernels import LayerForm, MlpForm, ModelForm
from edge_runtime.backends.cpu.trunk.native.mixers import latent_form, mixer_form
from edge_runtime.base.spec import (
    LatentAttention,
    LinearAttention,
    MlpSpec,
    ModelSpec,
    RopeSpec,
    ShortConvolution,
    SoftmaxAttention,
)

_ACTIVATIONS = ("silu", "gelu_tanh", "relu2")


def model_form(spec: ModelSpec) -> ModelForm:
    """Return what all layers share."""
    form = ModelForm()
    form.hidden, form.experts = spec.hidden, spec.num_experts
    form.eps, form.centred = spec.rms_eps, spec.norm == "layer"
    form.residual_scale, form.logit_scale = spec.residual_scale, spec.logit_scale
    form.softcap = spec.logit_softcap or 0.0
    return form


def layer_form(spec: ModelSpec, layer_idx: int) -> LayerForm:
    """Return what a layer computes; number L stands for the head, which begins like one."""
    form = LayerForm()
    form.joins = layer_idx > 0 and spec.layers[layer_idx - 1].sparse
    form.joins_parallel = spec.is_parallel(layer_idx - 1)
    if layer_idx == spec.num_layers:
        return form
    layer = spec.layers[layer_idx]
    if isinstance(layer.attention, SoftmaxAttention):
        _put_attention(form, spec, layer.attention)
    elif isinstance(layer.attention, LinearAttention | ShortConvolution):
        form.mixer = mixer_form(layer.attention)
    elif isinstance(layer.attention, LatentAttention):
        form.latent = latent_form(layer.attention, spec.rms_eps)
        form.score_scale = layer.attention.score_scale
        _put_rope(form, spec, layer.attention.rope)
    form.sparse, form.router_norm = layer.sparse, layer.sparse and spec.router.norm_scale is not None
    if layer.dense is not None:
        form.dense = _mlp_form(layer.dense)
    if layer.shared is not None:
        form.shared, form.shared_parallel = _mlp_form(layer.shared.mlp), layer.shared.parallel
    return form


def _put_attention(form: LayerForm, spec: ModelSpec, attention: SoftmaxAttention) -> None:
    form.heads, form.kv_heads, form.head_dim = attention.num_heads, attention.num_kv_heads, attention.head_dim
    form.window, form.clip = attention.window or 0, attention.clip_qkv or 0.0
    form.score_scale, form.norm_behind_rope = attention.score_scale, attention.qk_norm == "per_head_rotated"
    form.output_gate, form.shared_kv, form.value_norm = (
        attention.output_gate, attention.shared_kv, attention.value_norm,
    )  # fmt: skip
    _put_rope(form, spec, attention.rope)


def _put_rope(form: LayerForm, spec: ModelSpec, rope: RopeSpec | None) -> None:
    if rope is not None:
        form.rope = spec.ropes.index(rope)
        form.rotated, form.rope_pairs = rope.dim, rope.pairs


def _mlp_form(mlp: MlpSpec) -> MlpForm:
    form = MlpForm()
    form.width, form.gated, form.activation = mlp.intermediate, mlp.gated, _ACTIVATIONS.index(mlp.activation)
    return form
