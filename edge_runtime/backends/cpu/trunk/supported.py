"""Which models the trunk engine of this version runs: the others are refused by name, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.backends.cpu.trunk.oracles import MIXERS
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import AttentionSpec, LayerSpec, MlpSpec, ModelSpec, has_mask, mixer_kind


def require_supported(spec: ModelSpec) -> None:
    """Check that every layer has the parts the graphs and the numpy oracle compute.

    Raises:
        ConfigError: names the layer and the part that is not supported yet.
    """
    for i, layer in enumerate(spec.layers):
        problem = _problem(layer)
        if problem is not None:
            raise ConfigError(
                f"model family {spec.family!r}, layer {i}: {problem}: not supported by this version of hobbit-edge."
            )


def windows(spec: ModelSpec) -> set[int | None]:
    """Return the distinct attention windows of a model's layers, of those that attend to cached tokens."""
    return {layer.window for layer in spec.layers if has_mask(layer.attention)}


def dense_mlps(spec: ModelSpec) -> Iterator[MlpSpec]:
    """Yield what runs inside the trunk: the networks of dense layers and shared experts."""
    for layer in spec.layers:
        if layer.dense is not None:
            yield layer.dense
        if layer.shared is not None:
            yield layer.shared.mlp


def mixers(spec: ModelSpec) -> Iterator[AttentionSpec]:
    """Yield the attention of every layer that has one."""
    return (layer.attention for layer in spec.layers if layer.attention is not None)


def _problem(layer: LayerSpec) -> str | None:
    attention = layer.attention
    if attention is None:
        return None
    mixer = MIXERS.get(mixer_kind(attention))
    if mixer is None:
        rule = getattr(attention, "rule", None)
        return f"attention of kind {attention.kind!r}" + (f", rule {rule!r}" if rule else "")
    return mixer.problem(attention)
