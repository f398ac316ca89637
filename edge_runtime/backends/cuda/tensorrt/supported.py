"""Which models run as TensorRT engines. What is not known is refused."""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.base.spec import ModelSpec


def why_not(spec: ModelSpec) -> str:
    """Say what of a model engines do not compute; "" if they do."""
    return next(_problems(spec), "")


def _problems(spec: ModelSpec) -> Iterator[str]:
    if spec.router.norm_scale is not None:
        yield "a router with a norm of its own"
    for i, layer in enumerate(spec.layers):
        if any(not array.grows for array in spec.state_of(i)):
            kind = getattr(layer.attention, "kind", "unknown")
            yield f"layer {i}: attention of kind {kind!r} keeps a state of fixed size"
        if spec.is_parallel(i):
            yield f"layer {i}: a network in parallel with the experts"
