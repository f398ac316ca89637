"""From a bundle's graph to one that TensorRT's parser takes: every operator by a rule, and none that has no rule.

ONNX Runtime's own operators become ONNX's. Products with quantised matrices are computed in half precision, from int4
codes or from weights in half precision; products that a bundle keeps in float32 (routers, gates), norms, rotations,
attention and the residual stream stay float32. `modern.py` goes on from here for versions with attention of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.backends.cpu.trunk.graph_file import GraphFile, Node, Tensor
from edge_runtime.backends.cpu.trunk.graph_operators import OPERATORS
from edge_runtime.backends.cpu.trunk.graph_values import Value as Known
from edge_runtime.backends.cuda.tensorrt.graph import Lowered, Value, Weight, file_blocks
from edge_runtime.backends.cuda.tensorrt.half_weights import StoredMatrix
from edge_runtime.backends.cuda.tensorrt.onnx_bytes import FLOAT, FLOAT16, INT4

QUANTISED_OPSET = 21
"""The first with int4 and with scales of blocks."""
_PLAIN = frozenset({
    "Add", "Clip", "Concat", "Div", "Exp", "LayerNormalization", "MatMul", "Mul", "Pow", "ReduceMean", "Relu",
    "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Softplus", "Split", "Sqrt", "Sub", "Tanh", "Transpose",
})  # fmt: skip
_SIZES = {"T": 7, "S": 1021, "S_plus_T": 1028, "P": 1}
"""Shapes are worked out for these; only sizes that never change are used."""


class Lowering:
    """A graph while it is lowered.

    Args:
        name: of the result.
        graph: the bundle's, checked.
        data: the file of its matrices.
    """

    def __init__(self, name: str, graph: GraphFile, data: Path) -> None:
        self.out, self._graph, self._data = Lowered(name), graph, data
        self._known = _shapes(graph)

    def run(self) -> Lowered:
        """Return the lowered graph.

        Raises:
            ValueError: there is no rule for an operator.
        """
        out = self.out
        out.inputs = {each.name: Value(each.kind, each.dims) for each in self._graph.inputs}
        out.outputs = {each.name: Value(each.kind, each.dims) for each in self._graph.outputs}
        for node in self._graph.nodes:
            rule = _RULES.get(node.op)
            if rule is not None:
                rule(self, node)
            elif node.op in _PLAIN:
                out.add_many(node.op, node.outputs, *map(self.use, node.inputs), **node.attributes)
            else:
                raise ValueError(f"operator {node.op!r} has no lowering")
        return out

    def use(self, name: str) -> str:
        """Take a stored tensor over if it is one, and return its name."""
        if name in self._graph.tensors and name not in self.out.weights:
            self.out.weights[name] = self._weight(self._graph.tensors[name])
        return name

    def _weight(self, tensor: Tensor) -> Weight:
        region, inside, data = tensor.region, tensor.inside, self._data
        if region is not None:
            return Weight(tensor.kind, tensor.dims, lambda: file_blocks(data, region.offset, region.length))
        number = float(np.frombuffer(inside, "<f4")[0]) if tensor.kind == FLOAT and tensor.dims == () else None
        return Weight(tensor.kind, tensor.dims, lambda: iter((inside,)), tensor.ints, number)

    def stored(self, name: str) -> Tensor:
        """Return a stored tensor of the bundle."""
        return self._graph.tensors[name]

    def matrix(self, node: Node) -> StoredMatrix:
        """Return the matrix of a MatMulNBits.

        Raises:
            ValueError: its codes lie in the graph, where the exporter writes none.
        """
        _, codes, scales = node.inputs
        size: Mapping[str, Any] = node.attributes
        region, raw = self.stored(codes).region, self.stored(scales).inside
        if region is None or not raw:
            raise ValueError(f"{codes!r}: expected codes in the data file and scales in the graph")
        values = np.frombuffer(raw, "<f4").reshape(size["N"], -1)
        return StoredMatrix(self._data, region.offset, (size["N"], size["K"]), size["bits"], size["block_size"], values)

    def dims(self, name: str) -> tuple[int, ...]:
        """Return a value's shape; of sizes that vary an example."""
        return self._known[name].dims


def lower(name: str, graph: GraphFile, data: Path) -> Lowered:
    """Return a graph with operators that every TensorRT 10 knows.

    Args:
        name: of the result.
        graph: a bundle's, checked by `check_graph`.
        data: the file of its matrices.

    Raises:
        ValueError: an operator has no lowering.
    """
    return Lowering(name, graph, data).run()


def _shapes(graph: GraphFile) -> dict[str, Known]:
    """Work out every value's shape, as `check_graph` did."""
    known = {name: Known(t.kind, t.dims, t.ints, is_stored=True) for name, t in graph.tensors.items()}
    for each in graph.inputs:
        sized = tuple(dim if isinstance(dim, int) else _SIZES[dim] for dim in each.dims)
        known[each.name] = Known(each.kind, sized)
    for node in graph.nodes:
        found = OPERATORS[node.op].shape([known[name] for name in node.inputs], node.attributes)
        known |= {name: value for name, value in zip(node.outputs, found, strict=False) if name}
    return known


def _norm(low: Lowering, node: Node) -> None:
    x, gamma = map(low.use, node.inputs)
    _rms(low.out, x, gamma, float(node.attributes["epsilon"]), node.outputs[0])  # type: ignore[arg-type]


def _rms(out: Lowered, x: str, gamma: str, epsilon: float, name: str) -> None:
    square = out.add("Pow", x, out.scalar(2.0))
    mean = out.add("ReduceMean", square, out.ints(-1), keepdims=1)
    root = out.add("Sqrt", out.add("Add", mean, out.scalar(epsilon)))
    out.add("Mul", out.add("Div", x, root), gamma, out=name)


def _skip_norm(low: Lowering, node: Node) -> None:
    a, b, gamma = map(low.use, node.inputs)
    normed, *rest = node.outputs
    total = low.out.add("Add", a, b, out=rest[2] if len(rest) > 2 else "")
    _rms(low.out, total, gamma, float(node.attributes["epsilon"]), normed)  # type: ignore[arg-type]


def _scores(low: Lowering, node: Node) -> None:
    """Queries are scaled before the product, as ONNX Runtime's kernel may scale behind it: float32 either way."""
    queries, keys = map(low.use, node.inputs)
    alpha = float(node.attributes.get("alpha", 1.0))  # type: ignore[arg-type]
    scaled = queries if alpha == 1 else low.out.add("Mul", queries, low.out.scalar(alpha))
    rank = len(low.dims(keys))
    perm = (*range(rank - 2), rank - 1, rank - 2)
    low.out.add("MatMul", scaled, low.out.add("Transpose", keys, perm=perm), out=node.outputs[0])


def _quantised(low: Lowering, node: Node) -> None:
    matrix, out, x, name = low.matrix(node), low.out, node.inputs[0], node.inputs[1]
    shape = (matrix.inputs, matrix.outputs)
    if not matrix.fits_half:
        out.weights[name] = Weight(FLOAT, shape, lambda: matrix.float_blocks(FLOAT))
        out.add("MatMul", x, name, out=node.outputs[0])
        return
    half = out.add("Cast", x, to=FLOAT16)
    if not matrix.fits_int4:
        out.weights[name] = Weight(FLOAT16, shape, lambda: matrix.float_blocks(FLOAT16))
        out.add("Cast", out.add("MatMul", half, name), out=node.outputs[0], to=FLOAT)
        return
    out.opset = QUANTISED_OPSET
    blocks = (matrix.inputs // matrix.block, matrix.outputs)
    scales, missing = f"{name}.scales", f"{name}.missing"
    out.weights[name] = Weight(INT4, shape, matrix.int4_blocks)
    out.weights[scales] = Weight(FLOAT16, blocks, lambda: iter((matrix.positive_scales().tobytes(),)))
    out.weights[missing] = Weight(FLOAT16, blocks, lambda: iter((matrix.missing_scales().tobytes(),)))
    weights = out.add("DequantizeLinear", name, scales, axis=0, block_size=matrix.block)
    kept = (0,) * (len(low.dims(x)) - 1)  # sizes that stay
    by_block = out.add("Reshape", x, out.ints(*kept, blocks[0], matrix.block))
    means = out.add("ReduceMean", by_block, out.ints(-1), keepdims=1)
    means = out.add("Cast", out.add("Reshape", means, out.ints(*kept, blocks[0])), to=FLOAT16)
    both = out.add("Add", out.add("MatMul", half, weights), out.add("MatMul", means, missing))
    out.add("Cast", both, out=node.outputs[0], to=FLOAT)


def _rotary(low: Lowering, node: Node) -> None:
    """Neighbours that are turned as pairs come out as halves, of queries and of keys alike."""
    x, _, cos, sin = node.inputs
    out, (_, heads, _, width) = low.out, low.dims(x)
    rotated = int(node.attributes.get("rotary_embedding_dim", 0) or width)  # type: ignore[arg-type]
    half, rest = rotated // 2, list[str]()
    if width > rotated:
        x, *rest = out.add_many("Split", ["", ""], x, out.ints(rotated, width - rotated), axis=-1)
    if node.attributes.get("interleaved"):
        pairs = out.add("Reshape", x, out.ints(1, heads, -1, half, 2))
        x = out.add("Reshape", out.add("Transpose", pairs, perm=(0, 1, 2, 4, 3)), out.ints(1, heads, -1, rotated))
    a, b = out.add_many("Split", ["", ""], x, out.ints(half, half), axis=-1)
    first = out.add("Sub", out.add("Mul", a, cos), out.add("Mul", b, sin))
    second = out.add("Add", out.add("Mul", b, cos), out.add("Mul", a, sin))
    out.add("Concat", first, second, *rest, out=node.outputs[0], axis=-1)


_RULES: Mapping[str, Callable[[Lowering, Node], None]] = {
    "SimplifiedLayerNormalization": _norm,
    "com.microsoft:SkipSimplifiedLayerNormalization": _skip_norm,
    "com.microsoft:FusedMatMul": _scores,
    "com.microsoft:MatMulNBits": _quantised,
    "com.microsoft:RotaryEmbedding": _rotary,
}
