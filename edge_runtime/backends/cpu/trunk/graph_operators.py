"""The operators of the trunk's graphs: what each may be given, and the shape of what it returns.

This is the allow-list. The exporter writes no other, and ONNX Runtime is given no other: a loop never ends, a `Range`
or an `Expand` makes gigabytes of a few bytes, and contrib operators trust the sizes they are told. An exporter that
needs one more adds it here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from edge_runtime.backends.cpu.trunk.graph_file import FLOAT, INT64, UINT8, Attribute

_BLOCK_SIZES = (16, 32, 64, 128, 256)


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


def _floats(values: Sequence[Value]) -> None:
    expect(all(value.kind == FLOAT for value in values), "float32")


def _elementwise(values: Sequence[Value], _: Attributes) -> list[Value]:
    _floats(values)
    return [Value(FLOAT, broadcast(*(value.dims for value in values)))]


def _clip(values: Sequence[Value], _: Attributes) -> list[Value]:
    _floats(values)
    expect(values[1].dims == values[2].dims == (), "scalars as limits")
    return [Value(FLOAT, values[0].dims)]


def _mean(values: Sequence[Value], _: Attributes) -> list[Value]:
    x, axes = values
    expect(x.kind == FLOAT and axes.ints == (-1,) and x.dims != (), "the mean over the last axis")
    return [Value(FLOAT, (*x.dims[:-1], 1))]


def _softmax(values: Sequence[Value], _: Attributes) -> list[Value]:
    _floats(values)
    return [Value(FLOAT, values[0].dims)]


def _norm(values: Sequence[Value], _: Attributes) -> list[Value]:
    x, gamma = values
    _floats(values)
    expect(x.dims != () and gamma.dims == x.dims[-1:], "a weight for each number of the last axis")
    return [Value(FLOAT, x.dims)]


def _centred_norm(values: Sequence[Value], attributes: Attributes) -> list[Value]:
    expect(values[2].kind == FLOAT and values[2].dims == values[1].dims, "a bias for each weight")
    return _norm(values[:2], attributes)


def _skip_norm(values: Sequence[Value], _: Attributes) -> list[Value]:
    a, b, gamma = values
    _floats(values)
    expect(a.dims == b.dims and len(a.dims) == 3 and gamma.dims == a.dims[-1:], "two equal shapes and their weights")
    row = Value(FLOAT, (*a.dims[:-1], 1))
    return [Value(FLOAT, a.dims), row, row, Value(FLOAT, a.dims)]


def _product(a: Value, b: tuple[int, ...]) -> Value:
    expect(len(a.dims) >= 2 and len(b) >= 2 and a.dims[-1] == b[-2], f"matrices that go together: {a.dims}, {b}")
    return Value(FLOAT, (*broadcast(a.dims[:-2], b[:-2]), a.dims[-2], b[-1]))


def _matmul(values: Sequence[Value], _: Attributes) -> list[Value]:
    _floats(values)
    return [_product(values[0], values[1].dims)]


def _matmul_transposed(values: Sequence[Value], attributes: Attributes) -> list[Value]:
    _floats(values)
    expect(attributes.get("transB") == 1, "transB of 1")
    b = values[1].dims
    return [_product(values[0], (*b[:-2], *b[:-3:-1]))]


def _matmul_bits(values: Sequence[Value], attributes: Attributes) -> list[Value]:
    x, codes, scales = values
    inputs, outputs, bits, size = (_int(attributes, name) for name in ("K", "N", "bits", "block_size"))
    expect(size in _BLOCK_SIZES and bits in (4, 8), "bits of 4 or 8 and a block size of 16 to 256")
    blocks = -(-inputs // size)
    expect(x.kind == FLOAT and len(x.dims) >= 2 and x.dims[-1] == inputs, f"{inputs} columns")
    shape = (outputs, blocks, size * bits // 8)
    expect(codes.kind == UINT8 and codes.is_stored and codes.dims == shape, f"codes of shape {shape}")
    flat = outputs * blocks
    fits = scales.dims in ((flat,), (outputs, blocks))
    expect(scales.kind == FLOAT and scales.is_stored and fits, f"{flat} scales")
    return [Value(FLOAT, (*x.dims[:-1], outputs))]


def _split(values: Sequence[Value], attributes: Attributes) -> list[Value]:
    x, sizes = values
    axis = _axis(x, attributes)
    if sizes.ints is None or not all(size >= 0 for size in sizes.ints):
        raise ValueError("expected sizes that are known")
    expect(sum(sizes.ints) == x.dims[axis], f"sizes that add up to {x.dims[axis]}, got {sizes.ints}")
    return [Value(x.kind, (*x.dims[:axis], size, *x.dims[axis + 1 :])) for size in sizes.ints]


def _slice(values: Sequence[Value], _: Attributes) -> list[Value]:
    x, *limits = values
    known = [limit.ints for limit in limits]
    if any(ints is None or len(ints) != 1 for ints in known):
        raise ValueError("expected one start, end and axis that are known")
    (start,), (end,), (axis,) = (ints or () for ints in known)
    expect(0 <= axis < len(x.dims), f"an axis of {len(x.dims)}")
    size = len(range(x.dims[axis])[start:end])
    expect(size > 0, "something left of the axis")
    return [Value(x.kind, (*x.dims[:axis], size, *x.dims[axis + 1 :]))]


def _concat(values: Sequence[Value], attributes: Attributes) -> list[Value]:
    first = values[0]
    axis = _axis(first, attributes)
    rests = {(v.kind, *v.dims[:axis], *v.dims[axis + 1 :]) for v in values}
    expect(len(rests) == 1 and len({len(v.dims) for v in values}) == 1, "shapes that go together")
    ints = None
    if all(value.ints is not None for value in values):
        ints = tuple(number for value in values for number in value.ints or ())
    total = sum(value.dims[axis] for value in values)
    return [Value(first.kind, (*first.dims[:axis], total, *first.dims[axis + 1 :]), ints)]


def _reshape(values: Sequence[Value], _: Attributes) -> list[Value]:
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


def _transpose(values: Sequence[Value], attributes: Attributes) -> list[Value]:
    x, perm = values[0], attributes.get("perm")
    if not isinstance(perm, tuple) or sorted(perm) != [*range(len(x.dims))]:
        raise ValueError("expected a permutation of the axes")
    return [Value(x.kind, tuple(x.dims[axis] for axis in perm))]


def _shape(values: Sequence[Value], attributes: Attributes) -> list[Value]:
    start, end = attributes.get("start", 0), attributes.get("end", len(values[0].dims))
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start <= end <= len(values[0].dims):
        raise ValueError("expected a range of axes")
    found = values[0].dims[start:end]
    return [Value(INT64, (len(found),), found)]


def _rotary(values: Sequence[Value], attributes: Attributes) -> list[Value]:
    x, position, cos, sin = values
    _floats((x, cos, sin))
    expect(len(x.dims) == 4 and position.ints == (0,), "[1, H, T, C] from position 0 on")
    width, heads = _int(attributes, "rotary_embedding_dim", x.dims[-1]), _int(attributes, "num_heads", x.dims[1])
    is_right = 0 < width <= x.dims[-1] and width % 2 == 0 and heads == x.dims[1]
    expect(is_right, "an even width of at most C, and H heads")
    angles = (x.dims[2], width // 2)
    expect(cos.dims == sin.dims == angles, f"angles of shape {angles}")
    return [Value(FLOAT, x.dims)]


def _int(attributes: Attributes, name: str, default: int = 0) -> int:
    value = attributes.get(name, default)
    if not isinstance(value, int):
        raise ValueError(f"expected a whole number as {name}")  # noqa: TRY004 - one error kind
    return value


def _axis(x: Value, attributes: Attributes) -> int:
    axis = attributes.get("axis")
    if not isinstance(axis, int) or not -len(x.dims) <= axis < len(x.dims):
        raise ValueError(f"expected an axis of {len(x.dims)}")
    return axis % len(x.dims)


_ONE, _LAST = (1,), (-1,)
OPERATORS: Mapping[str, Operator] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow"), Operator(_elementwise, (2, 2), {})),
    **dict.fromkeys(("Sqrt", "Sigmoid", "Tanh", "Relu", "Exp", "Softplus"), Operator(_elementwise, (1, 1), {})),
    "Clip": Operator(_clip, (3, 3), {}),
    "ReduceMean": Operator(_mean, (2, 2), {"keepdims": _ONE}),
    "Softmax": Operator(_softmax, (1, 1), {"axis": _LAST}),
    "MatMul": Operator(_matmul, (2, 2), {}),
    "Split": Operator(_split, (2, 2), {"axis": None}),
    "Slice": Operator(_slice, (4, 4), {}),
    "Concat": Operator(_concat, (1, 32), {"axis": None}),
    "Reshape": Operator(_reshape, (2, 2), {}),
    "Transpose": Operator(_transpose, (1, 1), {"perm": None}),
    "Shape": Operator(_shape, (1, 1), {"start": None, "end": None}),
    "SimplifiedLayerNormalization": Operator(_norm, (2, 2), {"axis": _LAST, "epsilon": None}),
    "LayerNormalization": Operator(_centred_norm, (3, 3), {"axis": _LAST, "epsilon": None}),
    "com.microsoft:SkipSimplifiedLayerNormalization": Operator(_skip_norm, (3, 3), {"epsilon": None}),
    "com.microsoft:FusedMatMul": Operator(_matmul_transposed, (2, 2), {"transB": _ONE, "alpha": None}),
    "com.microsoft:MatMulNBits": Operator(
        _matmul_bits, (3, 3),
        {"K": None, "N": None, "bits": None, "block_size": None, "accuracy_level": (0, 1, 2, 3, 4)},
    ),
    "com.microsoft:RotaryEmbedding": Operator(
        _rotary, (4, 4), {"rotary_embedding_dim": None, "num_heads": None, "interleaved": (0, 1)}
    ),
}  # fmt: skip
"""By type, with the domain in front where it is not ONNX's own."""
