"""What every kind of attention offers the trunk on the GPU. Letters: T tokens, D hidden, H heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from edge_runtime.backends.cuda.trunk.buffers import TokenBuffers
from edge_runtime.backends.cuda.trunk.graph_weights import GraphWeights
from edge_runtime.backends.cuda.trunk.kv_cache import CudaKVCache
from edge_runtime.backends.cuda.trunk.launches import DeviceMatrix, TrunkLaunches

OUT = "attended"
"""Buffer of what the output projection multiplies."""


class Place(NamedTuple):
    """Where a layer's attention works.

    Attributes:
        launches: queue its kernels.
        at: buffers of the chunk; `normed` holds what it reads, [T, D].
        kv: the chunk's cache.
        layer_idx: the layer.
        tokens: T.
        eps: of RMS norms.
        angles: addresses of cos and sin [T, R / 2] of its rope; 0 without one.
    """

    launches: TrunkLaunches
    at: TokenBuffers
    kv: CudaKVCache
    layer_idx: int
    tokens: int
    eps: float
    angles: tuple[int, int]

    def linear(self, x: str, matrix: DeviceMatrix, y: str) -> None:
        """Multiply a buffer by a matrix."""
        self.launches.linear(self.at.at(x), matrix, self.at.at(y), self.tokens)


class Mixer(Protocol):
    """A kind of attention; a module is one. `MIXERS` lists them."""

    def problems(self, attention: Any) -> Iterator[str]:
        """Say which of its sizes or options no kernel takes."""
        ...

    def inputs(self, attention: Any) -> list[int]:
        """Return the inputs of its matrices, besides D."""
        ...

    def widths(self, attention: Any, hidden: int) -> dict[str, int]:
        """Return the float32 numbers a token has in each of its buffers, `OUT` among them."""
        ...

    def load(self, g: GraphWeights, prefix: str, attention: Any, hidden: int) -> Any:
        """Take its weights from a layer's graph; `o` of what it returns is the output projection.

        Raises:
            BundleError: one is not there, or has another size.
        """
        ...

    def run(self, attention: Any, weights: Any, place: Place) -> None:
        """Compute `OUT` from `normed`, and what the layer keeps."""
        ...
