"""Inputs and outputs of the trunk's graphs (docs/format.md section 4): checked before anything is bound to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from edge_runtime.backends.cpu.trunk.oracles import mixer_of
from edge_runtime.backends.cpu.trunk.oracles.base import Growth
from edge_runtime.backends.cpu.trunk.supported import dense_mlps
from edge_runtime.backends.cpu.trunk.tables import TABLE_DIMS
from edge_runtime.base.errors import BundleError
from edge_runtime.base.spec import ModelSpec, StateArray, has_mask, rope_of

Dims = tuple["int | str", ...]
"""A size that differs from call to call has a name: T tokens, S slots of a cache, S_plus_T both, P routers."""


class Signature(NamedTuple):
    """A graph as the format has it.

    Attributes:
        inputs: name -> dims of its float32 inputs.
        outputs: the same of its outputs.
        growth: of its values.
    """

    inputs: Mapping[str, Dims]
    outputs: Mapping[str, Dims]
    growth: Growth


def layer_signature(spec: ModelSpec, layer_idx: int) -> Signature:
    """Return the signature of a layer's graph."""
    layer, stream = spec.layers[layer_idx], _stream(spec)
    inputs, outputs = _stream_inputs(spec, layer_idx), {"resid_out": stream}
    rope, states = rope_of(layer.attention), spec.state_of(layer_idx)
    if rope is not None:
        inputs |= dict.fromkeys(("cos", "sin"), ("T", rope.dim // 2))
    inputs |= {f"past_{array.name}": state_dims(array, "S") for array in states}
    outputs |= {f"new_{array.name}": state_dims(array, "T") for array in states}
    if has_mask(layer.attention):
        inputs["mask"] = (1, 1, "T", "S_plus_T")
    if layer.attention is not None:
        inputs |= {name: TABLE_DIMS[name] for name in mixer_of(layer.attention).TABLES}
    if layer.sparse:
        outputs |= {"x": stream, "router_logits": (1, "T", spec.num_experts)}
        outputs |= {} if spec.router.norm_scale is None else {"router_x": stream}
    return Signature(inputs, outputs, _layer_growth(spec, layer_idx))


def state_dims(array: StateArray, slots: str) -> Dims:
    """Return the shape of what a layer keeps, as its graph has it."""
    return (1, array.shape[0], slots, array.shape[1]) if array.grows else (1, *array.shape)


def _layer_growth(spec: ModelSpec, layer_idx: int) -> Growth:
    layer = spec.layers[layer_idx]
    mixed = Growth(0) if layer.attention is None else mixer_of(layer.attention).growth(layer.attention, spec.hidden)
    experts = spec.num_experts if layer.sparse else 0
    return mixed.at_least(max(spec.hidden, experts, 2 * (layer.dense.intermediate if layer.dense else 0)))


def _stream(spec: ModelSpec) -> Dims:
    return (1, "T", spec.hidden)


def _stream_inputs(spec: ModelSpec, layer_idx: int) -> dict[str, Dims]:
    """What a layer, or the head, takes over from the layer before."""
    names = ("resid", "moe", "parallel") if spec.is_parallel(layer_idx - 1) else ("resid", "moe")
    return dict.fromkeys(names, _stream(spec))


def shared_signature(spec: ModelSpec, layer_idx: int) -> Signature:
    """Return the signature of a shared expert's graph, or of a network in parallel."""
    widest = max([spec.hidden, *(2 * mlp.intermediate for mlp in dense_mlps(spec))])
    source = "resid" if spec.is_parallel(layer_idx) else "x"
    return Signature({source: _stream(spec)}, {"y": _stream(spec)}, Growth(widest))


def head_signature(spec: ModelSpec) -> Signature:
    """Return the signature of the head's graph."""
    return Signature(
        _stream_inputs(spec, spec.num_layers),
        {"logits": (1, "T", spec.vocab_size)},
        Growth(max(spec.hidden, spec.vocab_size)),
    )


def routers_signature(spec: ModelSpec) -> Signature:
    """Return the signature of the graph that applies routers handed to it."""
    return Signature(
        {"x": _stream(spec), "routers": ("P", spec.hidden, spec.num_experts)},
        {"router_logits": ("P", "T", spec.num_experts)},
        Growth(spec.num_experts),
    )


class Declared(NamedTuple):
    """An input or output as a graph declares it."""

    name: str
    type: str
    dims: Sequence[int | str | None]


def check_signature(part: str, what: str, expected: Mapping[str, Dims], found: Sequence[Declared]) -> None:
    """Compare a graph's inputs or outputs with the format's.

    Raises:
        BundleError: a name, type or fixed size differs.
    """
    names = [f.name for f in found]
    if sorted(names) != sorted(expected):
        raise BundleError(
            f"{part}: {what}s: expected {sorted(expected)}, got {sorted(names)}. Export the bundle again."
        )
    for name, kind, dims in found:
        if kind != "tensor(float)" or _fixed(dims) != _fixed(expected[name]):
            raise BundleError(
                f"{part}: {what} {name!r}: expected float32 {list(_fixed(expected[name]))}, got {kind} {list(dims)}. "
                "Export the bundle again."
            )


def _fixed(dims: Sequence[int | str | None]) -> tuple[int | None, ...]:
    """Sizes, and None where they differ from call to call."""
    return tuple(dim if isinstance(dim, int) else None for dim in dims)
