"""What a token of a chunk takes in each buffer of the trunk on the GPU, from the model alone."""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.backends.cuda.trunk.mixers import mixer_of
from edge_runtime.base.spec import LayerSpec, MlpSpec, ModelSpec


def widths_of(spec: ModelSpec) -> dict[str, int]:
    """Return the numbers a token has in each buffer, by name; `cos0`, `sin0`, ... are those of each distinct rope."""
    mlps = [mlp for layer in spec.layers for mlp in networks(layer)]
    angles = {f"{name}{i}": rope.dim // 2 for i, rope in enumerate(spec.ropes) for name in ("cos", "sin")}
    widths = {
        "resid": spec.hidden,
        "normed": spec.hidden,
        "x": spec.hidden,
        "router_logits": spec.num_experts,
        "wide": max([(2 if mlp.gated else 1) * mlp.intermediate for mlp in mlps], default=1),
        "hidden": max([mlp.intermediate for mlp in mlps], default=1),
        "y": spec.hidden,
        "gates": 1,
        **angles,
    }
    if any(is_joined(spec, layer) for layer in spec.layers):
        widths["taken"] = spec.hidden
    if any(spec.is_parallel(i) for i in range(spec.num_layers)):
        widths["parallel"] = spec.hidden
    if spec.router.norm_scale is not None:
        widths["router_x"] = spec.hidden
    for layer in spec.layers:
        if layer.attention is not None:
            for name, width in mixer_of(layer.attention).widths(layer.attention, spec.hidden).items():
                widths[name] = max(widths.get(name, 0), width)
    return widths


def is_joined(spec: ModelSpec, layer: LayerSpec) -> bool:
    """Whether what a layer's parts give is more than added to the residual stream."""
    return layer.output_norms or layer.scaled or spec.residual_scale != 1


def networks(layer: LayerSpec) -> Iterator[MlpSpec]:
    """Yield the dense networks of a layer."""
    yield from () if layer.dense is None else (layer.dense,)
    yield from () if layer.shared is None else (layer.shared.mlp,)
