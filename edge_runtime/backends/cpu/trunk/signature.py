"""Inputs and outputs of the trunk's graphs (docs/format.md section 4): checked before anything is bound to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from edge_runtime.backends.cpu.trunk.supported import dense_mlps, rope_of
from edge_runtime.base.errors import BundleError
from edge_runtime.base.spec import ModelSpec

Dims = tuple["int | None", ...]


class Growth(NamedTuple):
    """How many numbers the largest value of a graph may have: as many as `scratch_bytes` counts on.

    Attributes:
        token: for each token.
        pair: for each token and each token it may attend to.
        cached: for each cached token.
        beside: what a token may attend to besides tokens: 1 with sinks.
    """

    token: int
    pair: int = 0
    cached: int = 0
    beside: int = 0

    def largest(self, tokens: int, cached: int) -> int:
        """Return it for T tokens behind so many cached ones."""
        return max(tokens * self.token, tokens * (tokens + cached + self.beside) * self.pair, cached * self.cached)


class Signature(NamedTuple):
    """A graph as the format has it.

    Attributes:
        inputs: name -> dims of its float32 inputs; None is a size that differs from call to call.
        outputs: the same of its outputs.
        growth: of its values.
    """

    inputs: Mapping[str, Dims]
    outputs: Mapping[str, Dims]
    growth: Growth


def layer_signature(spec: ModelSpec, layer_idx: int) -> Signature:
    """Return the signature of a layer's graph."""
    stream: Dims = (1, None, spec.hidden)
    angle: Dims = (None, rope_of(spec).dim // 2)
    cache: Dims = (1, spec.attention.num_kv_heads, None, spec.attention.head_dim)
    outputs = {"resid_out": stream, "new_k": cache, "new_v": cache}
    if spec.layers[layer_idx].sparse:
        outputs |= {"x": stream, "router_logits": (1, None, spec.num_experts)}
    inputs = {
        "resid": stream, "moe": stream, "cos": angle, "sin": angle, "past_k": cache, "past_v": cache,
        "mask": (1, 1, None, None),
    }  # fmt: skip
    a, dense = spec.attention, spec.layers[layer_idx].dense
    heads = a.num_heads + 2 * a.num_kv_heads
    widest = max(spec.hidden, heads * a.head_dim, spec.num_experts, 2 * (dense.intermediate if dense else 0))
    return Signature(inputs, outputs, Growth(widest, a.num_heads, a.num_kv_heads * a.head_dim, int(a.sinks)))


def shared_signature(spec: ModelSpec) -> Signature:
    """Return the signature of a shared expert's graph."""
    widest = max([spec.hidden, *(2 * mlp.intermediate for mlp in dense_mlps(spec))])
    return Signature({"x": (1, None, spec.hidden)}, {"y": (1, None, spec.hidden)}, Growth(widest))


def head_signature(spec: ModelSpec) -> Signature:
    """Return the signature of the head's graph."""
    stream: Dims = (1, None, spec.hidden)
    return Signature(
        {"resid": stream, "moe": stream},
        {"logits": (1, None, spec.vocab_size)},
        Growth(max(spec.hidden, spec.vocab_size)),
    )


def routers_signature(spec: ModelSpec) -> Signature:
    """Return the signature of the graph that applies routers handed to it."""
    return Signature(
        {"x": (1, None, spec.hidden), "routers": (None, spec.hidden, spec.num_experts)},
        {"router_logits": (None, None, spec.num_experts)},
        Growth(spec.num_experts),
    )


class Found(NamedTuple):
    """An input or output as a graph declares it."""

    name: str
    type: str
    dims: Sequence[int | str | None]


def check_signature(part: str, what: str, expected: Mapping[str, Dims], found: Sequence[Found]) -> None:
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
        shape = tuple(d if isinstance(d, int) else None for d in dims)
        if kind != "tensor(float)" or shape != expected[name]:
            raise BundleError(
                f"{part}: {what} {name!r}: expected float32 {list(expected[name])}, got {kind} {list(dims)}. "
                "Export the bundle again."
            )
