"""The operators of the trunk's graphs: what each may be given, and the shape of what it returns.

This is the allow-list. The exporter writes no other, and ONNX Runtime is given no other: a loop never ends, a `Range`
or an `Expand` makes gigabytes of a few bytes, and contrib operators trust the sizes they are told. An exporter that
needs one more adds it here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge_runtime.backends.cpu.trunk.graph_file import FLOAT, UINT8
from edge_runtime.backends.cpu.trunk.graph_moves import concat, reshape, shape_of, slice_of, split, transpose
from edge_runtime.backends.cpu.trunk.graph_values import (
    Attributes,
    Operator,
    Value,
    broadcast,
    expect,
    require_floats,
    whole_number,
)

_BLOCK_SIZES = (16, 32, 64, 128, 256)


def _elementwise(values: Sequence[Value], _: Attributes) -> list[Value]:
    require_floats(values)
    return [Value(FLOAT, broadcast(*(value.dims for value in values)))]


def _clip(values: Sequence[Value], _: Attributes) -> list[Value]:
    require_floats(values)
    expect(values[1].dims == values[2].dims == (), "scalars as limits")
    return [Value(FLOAT, values[0].dims)]


def _mean(values: Sequence[Value], _: Attributes) -> list[Value]:
    x, axes = values
    expect(x.kind == FLOAT and axes.ints == (-1,) and x.dims != (), "the mean over the last axis")
    return [Value(FLOAT, (*x.dims[:-1], 1))]


def _softmax(values: Sequence[Value], _: Attributes) -> list[Value]:
    require_floats(values)
    return [Value(FLOAT, values[0].dims)]


def _norm(values: Sequence[Value], _: Attributes) -> list[Value]:
    x, gamma = values
    require_floats(values)
    expect(x.dims != () and gamma.dims == x.dims[-1:], "a weight for each number of the last axis")
    return [Value(FLOAT, x.dims)]


def _centred_norm(values: Sequence[Value], attributes: Attributes) -> list[Value]:
    expect(values[2].kind == FLOAT and values[2].dims == values[1].dims, "a bias for each weight")
    return _norm(values[:2], attributes)


def _skip_norm(values: Sequence[Value], _: Attributes) -> list[Value]:
    a, b, gamma = values
    require_floats(values)
    expect(a.dims == b.dims and len(a.dims) == 3 and gamma.dims == a.dims[-1:], "two equal shapes and their weights")
    row = Value(FLOAT, (*a.dims[:-1], 1))
    return [Value(FLOAT, a.dims), row, row, Value(FLOAT, a.dims)]


def _product(a: Value, b: tuple[int, ...]) -> Value:
    expect(len(a.dims) >= 2 and len(b) >= 2 and a.dims[-1] == b[-2], f"matrices that go together: {a.dims}, {b}")
    return Value(FLOAT, (*broadcast(a.dims[:-2], b[:-2]), a.dims[-2], b[-1]))


def _matmul(values: Sequence[Value], _: Attributes) -> list[Value]:
    require_floats(values)
    return [_product(values[0], values[1].dims)]


def _matmul_transposed(values: Sequence[Value], attributes: Attributes) -> list[Value]:
    require_floats(values)
    expect(attributes.get("transB") == 1, "transB of 1")
    b = values[1].dims
    return [_product(values[0], (*b[:-2], *b[:-3:-1]))]


def _matmul_bits(values: Sequence[Value], attributes: Attributes) -> list[Value]:
    x, codes, scales = values
    inputs, outputs, bits, size = (whole_number(attributes, name) for name in ("K", "N", "bits", "block_size"))
    expect(size in _BLOCK_SIZES and bits in (4, 8), "bits of 4 or 8 and a block size of 16 to 256")
    blocks = -(-inputs // size)
    expect(x.kind == FLOAT and len(x.dims) >= 2 and x.dims[-1] == inputs, f"{inputs} columns")
    shape = (outputs, blocks, size * bits // 8)
    expect(codes.kind == UINT8 and codes.is_stored and codes.dims == shape, f"codes of shape {shape}")
    flat = outputs * blocks
    fits = scales.dims in ((flat,), (outputs, blocks))
    expect(scales.kind == FLOAT and scales.is_stored and fits, f"{flat} scales")
    return [Value(FLOAT, (*x.dims[:-1], outputs))]


def _rotary(values: Sequence[Value], attributes: Attributes) -> list[Value]:
    x, position, cos, sin = values
    require_floats((x, cos, sin))
    expect(len(x.dims) == 4 and position.ints == (0,), "[1, H, T, C] from position 0 on")
    width, heads = (
        whole_number(attributes, "rotary_embedding_dim", x.dims[-1]),
        whole_number(attributes, "num_heads", x.dims[1]),
    )
    is_right = 0 < width <= x.dims[-1] and width % 2 == 0 and heads == x.dims[1]
    expect(is_right, "an even width of at most C, and H heads")
    angles = (x.dims[2], width // 2)
    expect(cos.dims == sin.dims == angles, f"angles of shape {angles}")
    return [Value(FLOAT, x.dims)]


_ONE, _LAST = (1,), (-1,)
OPERATORS: Mapping[str, Operator] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow"), Operator(_elementwise, (2, 2), {})),
    **dict.fromkeys(("Sqrt", "Sigmoid", "Tanh", "Relu", "Exp", "Softplus"), Operator(_elementwise, (1, 1), {})),
    "Identity": Operator(_elementwise, (1, 1), {}),  # the oldest builds named outputs so
    "Clip": Operator(_clip, (3, 3), {}),
    "ReduceMean": Operator(_mean, (2, 2), {"keepdims": _ONE}),
    "Softmax": Operator(_softmax, (1, 1), {"axis": _LAST}),
    "MatMul": Operator(_matmul, (2, 2), {}),
    "Split": Operator(split, (2, 2), {"axis": None}),
    "Slice": Operator(slice_of, (4, 4), {}),
    "Concat": Operator(concat, (1, 32), {"axis": None}),
    "Reshape": Operator(reshape, (2, 2), {}),
    "Transpose": Operator(transpose, (1, 1), {"perm": None}),
    "Shape": Operator(shape_of, (1, 1), {"start": None, "end": None}),
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
