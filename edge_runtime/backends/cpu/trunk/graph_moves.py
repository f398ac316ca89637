"""Operators that move numbers without computing: the shape of what each returns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edge_runtime.backends.cpu.trunk.graph_file import INT64
from edge_runtime.backends.cpu.trunk.graph_values import Attributes, Value, axis_of, expect


def split(values: Sequence[Value], attributes: Attributes) -> list[Value]:
    """Cut along an axis into sizes that are known."""
    x, sizes = values
    axis = axis_of(x, attributes)
    if sizes.ints is None or not all(size >= 0 for size in sizes.ints):
        raise ValueError("expected sizes that are known")
    expect(sum(sizes.ints) == x.dims[axis], f"sizes that add up to {x.dims[axis]}, got {sizes.ints}")
    return [Value(x.kind, (*x.dims[:axis], size, *x.dims[axis + 1 :])) for size in sizes.ints]


def slice_of(values: Sequence[Value], _: Attributes) -> list[Value]:
    """Take part of one axis, from a start to an end that are known; negative ones count from its end."""
    x, *limits = values
    known = [limit.ints for limit in limits]
    if any(ints is None or len(ints) != 1 for ints in known):
        raise ValueError("expected one start, end and axis that are known")
    (start,), (end,), (axis,) = (ints or () for ints in known)
    expect(0 <= axis < len(x.dims), f"an axis of {len(x.dims)}")
    size = len(range(x.dims[axis])[start:end])
    expect(size > 0, "something left of the axis")
    return [Value(x.kind, (*x.dims[:axis], size, *x.dims[axis + 1 :]))]


def concat(values: Sequence[Value], attributes: Attributes) -> list[Value]:
    """Join along an axis; of whole numbers the values stay known."""
    first = values[0]
    axis = axis_of(first, attributes)
    rests = {(v.kind, *v.dims[:axis], *v.dims[axis + 1 :]) for v in values}
    expect(len(rests) == 1 and len({len(v.dims) for v in values}) == 1, "shapes that go together")
    ints = None
    if all(value.ints is not None for value in values):
        ints = tuple(number for value in values for number in value.ints or ())
    total = sum(value.dims[axis] for value in values)
    return [Value(first.kind, (*first.dims[:axis], total, *first.dims[axis + 1 :]), ints)]


def reshape(values: Sequence[Value], _: Attributes) -> list[Value]:
    """Give a shape that is known, with at most one size left open."""
    x, shape = values
    if shape.ints is None or len(shape.ints) > 8:
        raise ValueError("expected a shape that is known")
    expect(all(size >= -1 for size in shape.ints), "sizes of -1 and above")
    kept = [size != 0 or i < len(x.dims) for i, size in enumerate(shape.ints)]
    expect(all(kept) and shape.ints.count(-1) <= 1, "one size left open at most")
    sizes = [x.dims[i] if size == 0 else size for i, size in enumerate(shape.ints)]
    total, known = math.prod(x.dims), math.prod(size for size in sizes if size != -1)
    expect(known > 0 and total % known == 0, f"a shape of {total} numbers, got {shape.ints}")
    dims = tuple(total // known if size == -1 else size for size in sizes)
    expect(math.prod(dims) == total, f"a shape of {total} numbers, got {shape.ints}")
    return [Value(x.kind, dims)]


def transpose(values: Sequence[Value], attributes: Attributes) -> list[Value]:
    """Reorder the axes."""
    x, perm = values[0], attributes.get("perm")
    if not isinstance(perm, tuple) or sorted(perm) != [*range(len(x.dims))]:
        raise ValueError("expected a permutation of the axes")
    return [Value(x.kind, tuple(x.dims[axis] for axis in perm))]


def shape_of(values: Sequence[Value], attributes: Attributes) -> list[Value]:
    """Return some of the sizes as whole numbers."""
    start, end = attributes.get("start", 0), attributes.get("end", len(values[0].dims))
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start <= end <= len(values[0].dims):
        raise ValueError("expected a range of axes")
    found = values[0].dims[start:end]
    return [Value(INT64, (len(found),), found)]
