"""What is known of a graph's values and operators before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from edge_runtime.backends.cpu.trunk.graph_file import FLOAT, Attribute


class Value(NamedTuple):
    """What is known of a value of a graph.

    Attributes:
        kind: number type, as ONNX numbers it.
        dims: its shape.
        ints: its values, where they are short and known beforehand.
        is_stored: it is an initializer.
    """

    kind: int
    dims: tuple[int, ...]
    ints: tuple[int, ...] | None = None
    is_stored: bool = False


Attributes = Mapping[str, Attribute]
Shape = Callable[[Sequence[Value], Attributes], list[Value]]


class Operator(NamedTuple):
    """One operator.

    Attributes:
        shape: returns the outputs for the inputs, or raises ValueError.
        inputs: how many there may be, least and most.
        attributes: the values each may have; None for any that `shape` looks at.
    """

    shape: Shape
    inputs: tuple[int, int]
    attributes: Mapping[str, Sequence[Attribute] | None]


def expect(is_so: bool, what: str) -> None:
    """Raise ValueError unless something expected is so."""
    if not is_so:
        raise ValueError(f"expected {what}")


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that shapes are stretched to."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    sizes = [{dims[i] for dims in padded} - {1} for i in range(rank)]
    expect(all(len(found) <= 1 for found in sizes), f"shapes that go together, got {shapes}")
    return tuple(found.pop() if found else 1 for found in sizes)


def whole_number(attributes: Attributes, name: str, default: int = 0) -> int:
    """Return an attribute that must be a whole number."""
    value = attributes.get(name, default)
    if not isinstance(value, int):
        raise ValueError(f"expected a whole number as {name}")  # noqa: TRY004 - one error kind
    return value


def axis_of(x: Value, attributes: Attributes) -> int:
    """Return the axis an operator names, counted from the front."""
    axis = attributes.get("axis")
    if not isinstance(axis, int) or not -len(x.dims) <= axis < len(x.dims):
        raise ValueError(f"expected an axis of {len(x.dims)}")
    return axis % len(x.dims)


def require_floats(values: Sequence[Value]) -> None:
    """Raise ValueError unless all are float32."""
    expect(all(value.kind == FLOAT for value in values), "float32")
