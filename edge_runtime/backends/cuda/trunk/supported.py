"""Which models the trunk on the GPU runs. What it does not know it refuses."""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.backends.cuda.known import unknown_parts
from edge_runtime.backends.cuda.trunk.mixers import MIXERS
from edge_runtime.backends.cuda.trunk.structures import READ_AT_ONCE
from edge_runtime.backends.cuda.trunk.widths import networks
from edge_runtime.base.spec import LayerSpec, ModelSpec, mixer_kind, rope_of


def why_not(spec: ModelSpec) -> str:
    """Say what of a model the trunk on the GPU cannot compute; "" if it can."""
    return next(_problems(spec), "")


def _problems(spec: ModelSpec) -> Iterator[str]:
    yield from unknown_parts(spec, "model")
    for i, layer in enumerate(spec.layers):
        yield from _layer_problems(layer, f"layer {i}")


def _layer_problems(layer: LayerSpec, where: str) -> Iterator[str]:
    yield from unknown_parts(layer, where)
    attention, rope, inputs = layer.attention, rope_of(layer.attention), list[int]()
    if attention is not None:
        mixer = MIXERS.get(mixer_kind(attention))
        if mixer is None:
            yield f"{where}: attention of kind {attention.kind!r}"
            return
        yield from unknown_parts(attention, f"{where}: attention")
        yield from (f"{where}: {problem}" for problem in mixer.problems(attention))
        inputs = mixer.inputs(attention)
    if rope is not None:
        yield from unknown_parts(rope, f"{where}: rope")
    for mlp in networks(layer):
        yield from unknown_parts(mlp, f"{where}: dense network")
    if layer.shared is not None:
        yield from unknown_parts(layer.shared, f"{where}: shared expert")
    for width in [*inputs, *(mlp.intermediate for mlp in networks(layer))]:
        if width % READ_AT_ONCE:
            yield f"{where}: a matrix of {width} inputs, expected a multiple of {READ_AT_ONCE}"
