"""What native code calls a trunk and expert kernels by, without Python in between. An optional part of a backend."""

from __future__ import annotations

from typing import Any, Protocol

from edge_runtime.backends.trunk import Trunk, TrunkChunk
from edge_runtime.base.arrays import F32


class TokenCompute(Protocol):
    """A trunk and expert kernels that native code calls without Python in between, for chunks of one token.

    Attributes:
        out: float32 [1, D], where experts' output goes, and from where the next layer, or the head, takes it.
        native: has `port()`, a capsule of a `ComputePort` (base/src/layer_ports.hpp).
    """

    out: F32
    native: Any

    def frame_of(self, chunk: TrunkChunk) -> Any:
        """Return what has `port()`, a capsule of the chunk as the port's calls take it."""
        ...


def token_compute_of(trunk: Trunk[Any], kernels: Any) -> TokenCompute | None:
    """Return what native code calls a trunk and kernels by; None: they have to be called from Python."""
    make = getattr(trunk, "token_compute", None)  # most trunks have none
    found: TokenCompute | None = None if make is None else make(kernels)
    return found
