"""Matrices of the trunk: read by row blocks from the checkpoint, stored as float32 MatMul or quantised MatMulNBits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edge_runtime.backends.cpu.trunk.weight_source import TrunkWeights
from edge_runtime.base.arrays import F32
from hobbit_export.trunk.feedback import Feedback
from hobbit_export.trunk.graph import Graph
from hobbit_export.trunk.quantize import Bits, block_size_for, quantize_rows

Precision = Literal["fp32", "int8", "int4"]
Moments = Mapping[str, Sequence[F32]]
BITS: dict[Precision, Bits] = {"int8": 8, "int4": 4}
# memory one float32 of a row block needs at the worst point of reading and quantising it, as a multiple of its bytes
_WORKING_COPIES = 16


@dataclass(frozen=True)
class Matrix:
    """Weights stacked by rows into one matrix, so that q, k and v (or gate and up) are one product.

    Attributes:
        label: name of the stored tensor.
        names: canonical names, top to bottom.
        rows: rows of each.
        inputs: columns of all.
        scale: float32 [inputs], what each column is multiplied by; None: by nothing.
        first: row of each that the matrix begins with.
    """

    label: str
    names: tuple[str, ...]
    rows: tuple[int, ...]
    inputs: int
    scale: F32 | None = None
    first: int = 0

    @property
    def outputs(self) -> int:
        """Rows of the stacked matrix."""
        return sum(self.rows)


class LinearWriter:
    """Adds products with checkpoint matrices to a graph."""

    def __init__(
        self,
        graph: Graph,
        weights: TrunkWeights,
        precision: Precision,
        memory_bytes: int,
        moments: Moments | None = None,
    ) -> None:
        """Write into `graph`, holding at most about `memory_bytes` of weights and temporaries.

        Args:
            graph: the graph.
            weights: dense weights by canonical name.
            precision: of the matrices.
            memory_bytes: see above.
            moments: second moments of matrices' inputs by name, for int4 with error feedback.
        """
        self._moments = moments or {}
        self._graph = graph
        self._weights = weights
        self._precision: Precision = precision
        self._memory_bytes = memory_bytes

    def product(self, x: str, matrix: Matrix, *, exact: bool = False) -> str:
        """Return x [1, T, K] times the matrix's transpose, [1, T, N]. `exact` keeps float32 in every precision."""
        bits = None if exact else BITS.get(self._precision)
        return self._float(x, matrix) if bits is None else self._quantized(x, matrix, bits)

    def _float(self, x: str, matrix: Matrix) -> str:
        shape = (matrix.inputs, matrix.outputs)
        name, region = self._graph.matrix(matrix.label, np.float32, shape)
        for start, block in self._blocks(matrix):
            self._graph.data.write_columns(region, matrix.outputs, start, block.T)
        return self._graph.node("MatMul", x, name)

    def _quantized(self, x: str, matrix: Matrix, bits: Bits) -> str:
        size = block_size_for(matrix.inputs)
        blocks, packed = -(-matrix.inputs // size), size * bits // 8
        g, n = self._graph, matrix.outputs
        codes, region = g.matrix(f"{matrix.label}_q{bits}", np.uint8, (n, blocks, packed))
        all_scales = np.empty((n, blocks), np.float32)
        known = self._moments.get(matrix.names[0]) if bits == BITS["int4"] and matrix.scale is None else None
        feedback = None if known is None else Feedback(known, matrix.inputs)
        for start, block in self._blocks(matrix):
            q = quantize_rows(block, bits, size) if feedback is None else feedback.quantize(block, size)
            g.data.write(region, start * blocks * packed, q.codes)
            all_scales[start : start + len(block)] = q.scales
        scales = g.vector(f"{matrix.label}_scale", all_scales.reshape(-1))
        return g.node(
            "MatMulNBits", x, codes, scales, contrib=True,
            K=matrix.inputs, N=n, bits=bits, block_size=size, accuracy_level=4,
        )  # fmt: skip

    def _blocks(self, matrix: Matrix) -> Iterator[tuple[int, F32]]:
        """Yield (first row, float32 [rows, K]) of the stacked matrix, a few rows at a time."""
        step = max(1, self._memory_bytes // (matrix.inputs * 4 * _WORKING_COPIES))
        top = 0
        for name, rows in zip(matrix.names, matrix.rows, strict=True):
            for start in range(0, rows, step):
                first, last = matrix.first + start, matrix.first + min(start + step, rows)
                block = self._weights.rows(name, first, last)
                block = block if matrix.scale is None else block * matrix.scale
                yield top + start, np.ascontiguousarray(block, np.float32)
            top += rows
