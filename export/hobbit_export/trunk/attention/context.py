"""What emitting a layer's attention works on."""

from __future__ import annotations

from typing import Any, NamedTuple

from edge_runtime.backends.cpu.trunk.weight_source import TrunkWeights
from edge_runtime.base.arrays import F32
from hobbit_export.trunk.blocks import rms_norm
from hobbit_export.trunk.graph import Graph
from hobbit_export.trunk.linear import LinearWriter, Matrix


class Emission(NamedTuple):
    """A layer's attention on its way into a graph.

    Attributes:
        attention: the layer's.
        hidden: D.
        eps: of RMS norms.
        prefix: its weights' canonical names start with this (``layers.3.``).
        weights: by canonical name.
        graph: has the layer's inputs, ``past_<name>`` of everything it keeps among them.
        linear: writes matrices.
    """

    attention: Any
    hidden: int
    eps: float
    prefix: str
    weights: TrunkWeights
    graph: Graph
    linear: LinearWriter

    def get(self, name: str) -> F32:
        """Return a weight of the layer."""
        return self.weights.get(self.prefix + name)

    def vector(self, name: str, values: F32) -> str:
        """Store a small weight of the layer inside the graph."""
        return self.graph.vector(self.prefix + name, values)

    def product(
        self, x: str, label: str, names: tuple[str, ...], rows: tuple[int, ...], inputs: int, *, exact: bool = False,
        first: int = 0,
    ) -> str:  # fmt: skip
        """Multiply x [1, T, K] by matrices of the layer, stacked: see `LinearWriter.product`."""
        stacked = tuple(self.prefix + name for name in names)
        return self.linear.product(x, Matrix(self.prefix + label, stacked, rows, inputs, first=first), exact=exact)

    def norm(self, x: str, name: str) -> str:
        """RMS norm over the last axis, with a weight of the layer."""
        return rms_norm(self.graph, x, self.vector(name, self.get(name)), self.eps)
