"""Which models the trunk engine of this version runs: the others are refused by name, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import AttentionSpec, LayerSpec, MlpSpec, ModelSpec, RopeSpec, SoftmaxAttention


def require_supported(spec: ModelSpec) -> None:
    """Check that every layer has the parts the graphs and the numpy oracle compute.

    Raises:
        ConfigError: names the layer and the part that is not supported yet.
    """
    first: AttentionSpec | None = None
    for i, layer in enumerate(spec.layers):
        problem = _problem(layer)
        if problem is None:
            alike = _without_window(layer.attention)
            first = alike if first is None else first
            problem = None if alike == first else "attention heads or rope other than those of layer 0"
        if problem is not None:
            raise ConfigError(
                f"model family {spec.family!r}, layer {i}: {problem}: not supported by this version of hobbit-edge."
            )


def rope_of(spec: ModelSpec) -> RopeSpec:
    """Return the rotary embedding of a supported model."""
    rope = spec.attention.rope
    assert rope is not None, "require_supported refuses layers without one"
    return rope


def windows(spec: ModelSpec) -> set[int | None]:
    """Return the distinct attention windows of a model's layers."""
    return {layer.window for layer in spec.layers}


def dense_mlps(spec: ModelSpec) -> Iterator[MlpSpec]:
    """Yield what runs inside the trunk: the networks of dense layers and shared experts."""
    for layer in spec.layers:
        if layer.dense is not None:
            yield layer.dense
        if layer.shared is not None:
            yield layer.shared.mlp


def _problem(layer: LayerSpec) -> str | None:
    attention = layer.attention
    if attention is None:
        return "a layer without attention"
    if not isinstance(attention, SoftmaxAttention):
        return f"attention of kind {attention.kind!r}"
    if not layer.sparse and layer.dense is None:
        return "a layer without a feed-forward part"
    if layer.shared is not None and layer.shared.parallel:
        return "a dense MLP in parallel with the experts"
    return _attention_problem(attention)


def _attention_problem(attention: SoftmaxAttention) -> str | None:
    options = {
        "without rope": attention.rope is None,
        "with an output gate": attention.output_gate,
        "with values shared with keys": attention.shared_kv,
    }
    return next((f"attention {name}" for name, is_set in options.items() if is_set), None)


def _without_window(attention: AttentionSpec | None) -> AttentionSpec | None:
    """The attention as if it were over all tokens: the mask makes the window, whatever the graph."""
    return replace(attention, kind="full", window=None) if isinstance(attention, SoftmaxAttention) else attention
