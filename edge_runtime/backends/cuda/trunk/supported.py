"""Which models the trunk on the GPU runs. What it does not know it refuses."""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.backends.cuda.known import unknown_parts
from edge_runtime.backends.cuda.trunk.structures import CODES, MOST_HEAD_DIM
from edge_runtime.base.spec import LayerSpec, MlpSpec, ModelSpec, SoftmaxAttention


def why_not(spec: ModelSpec) -> str:
    """Say what of a model the trunk on the GPU cannot compute; "" if it can."""
    return next(_problems(spec), "")


def _problems(spec: ModelSpec) -> Iterator[str]:
    yield from unknown_parts(spec, "model")
    if spec.router.norm_scale is not None:
        yield "a router with a norm of its own"
    for i, layer in enumerate(spec.layers):
        yield from _layer_problems(layer, f"layer {i}")
    yield from _narrow(spec)


def _layer_problems(layer: LayerSpec, where: str) -> Iterator[str]:
    yield from unknown_parts(layer, where)
    attention = layer.attention
    if not isinstance(attention, SoftmaxAttention):
        kind = "a layer without attention" if attention is None else f"attention of kind {attention.kind!r}"
        yield f"{where}: {kind}"
        return
    yield from unknown_parts(attention, f"{where}: attention")
    if attention.rope is None:
        yield f"{where}: attention without rope"
    else:
        yield from unknown_parts(attention.rope, f"{where}: rope")
    if attention.head_dim > MOST_HEAD_DIM:
        yield f"{where}: heads of {attention.head_dim} numbers, at most {MOST_HEAD_DIM}"
    if not layer.has_feed_forward:
        yield f"{where}: a layer without a feed-forward part"
    for mlp in _networks(layer):
        yield from unknown_parts(mlp, f"{where}: dense network")
    if layer.shared is not None:
        yield from unknown_parts(layer.shared, f"{where}: shared expert")


def _networks(layer: LayerSpec) -> Iterator[MlpSpec]:
    yield from () if layer.dense is None else (layer.dense,)
    yield from () if layer.shared is None else (layer.shared.mlp,)


def _narrow(spec: ModelSpec) -> Iterator[str]:
    for i, layer in enumerate(spec.layers):
        attention = layer.attention
        widths = [attention.num_heads * attention.head_dim] if isinstance(attention, SoftmaxAttention) else []
        for width in [*widths, *(mlp.intermediate for mlp in _networks(layer))]:
            if width % CODES:
                yield f"layer {i}: a matrix of {width} inputs, expected a multiple of {CODES}"
