"""A graph of one node for each operator of a bundle's graphs: what a provider has to compute as the CPU does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cpu.trunk.graph_file import Attribute
from edge_runtime.backends.cuda.tensorrt.onnx_bytes import FLOAT, INT64, UINT8, declared, model, node, tensor
from edge_runtime.base.arrays import F32

_MICROSOFT = "com.microsoft"
_OPSET, _IR_VERSION = 18, 8
"""Those of the exporter's graphs."""
_TOKENS, _WIDTH, _HEADS = 3, 64, 2
_KINDS = {np.dtype(np.float32): FLOAT, np.dtype(np.uint8): UINT8, np.dtype(np.int64): INT64}
Array = NDArray[Any]


class Case(NamedTuple):
    """An operator.

    Attributes:
        name: of it, and of what it was given where that matters.
        op: as the graphs call it.
        shape: of x, what it is given; float32.
        stored: further inputs, in order.
        attributes: of the node.
        outputs: how many it has; those that nothing reads are left out.
        domain: of the operator.
        rank: of what comes out.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    stored: tuple[Array, ...] = ()
    attributes: Mapping[str, Attribute] = {}
    outputs: int = 1
    domain: str = ""
    rank: int = 3

    def model(self) -> bytes:
        """Return the graph: x in, y0 and so on out."""
        tensors = {f"w{i}": np.ascontiguousarray(array) for i, array in enumerate(self.stored)}
        outputs = [f"y{i}" for i in range(self.outputs)]
        nodes = [node(self.op, self.op, ["x", *tensors], outputs, self.attributes, self.domain)]
        stored = [tensor(name, _KINDS[each.dtype], each.shape, each.tobytes()) for name, each in tensors.items()]
        results = [declared(name, FLOAT, [f"{name}_{i}" for i in range(self.rank)]) for name in outputs]
        return model(
            self.op, nodes, stored, [declared("x", FLOAT, self.shape)], results,
            opset=_OPSET, ir_version=_IR_VERSION, domains=[self.domain] * bool(self.domain),
        )  # fmt: skip


def cases(seed: int = 1) -> Iterator[Case]:
    """Yield the operators that compute, and those that move numbers on the GPU."""
    rng = np.random.default_rng(seed)

    def floats(*shape: int) -> F32:
        return np.add(rng.random(shape, np.float32), 0.5, dtype=np.float32)

    def whole(*values: int) -> Array:
        return np.array(values, np.int64)

    x, wide = (1, _TOKENS, _WIDTH), floats(_WIDTH)
    for op in ("Add", "Sub", "Mul", "Div", "Pow"):
        yield Case(op, op, x, (wide,))
    for op in ("Identity", "Sqrt", "Sigmoid", "Tanh", "Relu", "Exp", "Softplus"):
        yield Case(op, op, x)
    yield Case("Clip", "Clip", x, (np.array(0.6, np.float32), np.array(1.2, np.float32)))
    yield Case("ReduceMean", "ReduceMean", x, (whole(-1),), {"keepdims": 1})
    yield Case("Softmax", "Softmax", x, (), {"axis": -1})
    yield Case("MatMul", "MatMul", x, (floats(_WIDTH, 32),))
    yield Case("Split", "Split", x, (whole(16, 48),), {"axis": -1}, 2)
    yield Case("Slice", "Slice", x, (whole(8), whole(40), whole(-1), whole(1)))
    yield Case("Concat", "Concat", x, (floats(*x),), {"axis": 1})
    yield Case("Reshape", "Reshape", x, (whole(1, _TOKENS, _HEADS, -1),), rank=4)
    yield Case("Transpose", "Transpose", x, (), {"perm": (0, 2, 1)})
    norm: dict[str, Attribute] = {"axis": -1, "epsilon": 1e-6}
    yield Case("SimplifiedLayerNormalization", "SimplifiedLayerNormalization", x, (wide,), norm)
    yield Case("LayerNormalization", "LayerNormalization", x, (wide, wide), norm)
    skip: dict[str, Attribute] = {"epsilon": 1e-6}
    yield Case("SkipSimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", x, (floats(*x), wide), skip,
               domain=_MICROSOFT)  # fmt: skip
    yield Case("FusedMatMul", "FusedMatMul", x, (floats(32, _WIDTH),), {"transB": 1, "alpha": 0.5}, domain=_MICROSOFT)
    for bits in (4, 8):
        codes, scales = rng.integers(0, 256, (32, 2, 4 * bits), np.uint8), floats(32 * 2)
        sizes: dict[str, Attribute] = {"K": _WIDTH, "N": 32, "bits": bits, "block_size": 32}
        yield Case(f"MatMulNBits of {bits} bits", "MatMulNBits", x, (codes, scales), sizes, domain=_MICROSOFT)
    heads, half = (1, _HEADS, _TOKENS, 32), (_TOKENS, 16)
    rotary = (whole(0), np.cos(floats(*half)), np.sin(floats(*half)))
    yield Case("RotaryEmbedding", "RotaryEmbedding", heads, rotary, {"rotary_embedding_dim": 32, "num_heads": _HEADS},
               domain=_MICROSOFT, rank=4)  # fmt: skip
