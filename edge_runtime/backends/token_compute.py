"""What native code calls a trunk and expert kernels by, without Python in between. An optional part of a backend."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from edge_runtime.backends.chunks import TrunkChunk

T_co = TypeVar("T_co", covariant=True)


class TokenCompute(Protocol[T_co]):
    """A trunk and expert kernels that native code calls without Python in between, for chunks of one token.

    Native code reads and writes tensors where they lie: they are float32, in memory of the host.
    """

    @property
    def out(self) -> T_co:
        """[1, D], where experts' output goes, and from where the next layer, or the head, takes it."""
        ...

    @property
    def native(self) -> Any:
        """Has `port()`, a capsule of a `ComputePort` (base/src/layer_ports.hpp)."""
        ...

    def frame_of(self, chunk: TrunkChunk) -> Any:
        """Return what has `port()`, a capsule of the chunk as the port's calls take it."""
        ...
