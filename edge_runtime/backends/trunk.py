"""The trunk: everything but routed experts. All the engine knows of ONNX Runtime, TensorRT or numpy."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cpu.trunk.kv_cache import KVCache

F32 = NDArray[np.float32]


class LayerOutput(NamedTuple):
    """What one decoder layer hands to the experts.

    Attributes:
        x: float32 [T, D], normed hidden state that feeds router and experts; None for a dense layer.
        router_logits: float32 [T, E]; None for a dense layer.

    Both are views of buffers owned by the trunk, valid until the next call for the same chunk.
    """

    x: F32 | None
    router_logits: F32 | None


class TrunkChunk:
    """A chunk of one sequence in progress, as `Trunk.begin` returns it. Only its trunk looks inside.

    Attributes:
        kv: the sequence's cache.
        tokens: T.
    """

    def __init__(self, kv: KVCache, tokens: int) -> None:
        self.kv, self.tokens = kv, tokens
        self._next_layer: int | None = 0

    def drop(self) -> None:
        """Make every further use an error."""
        self._next_layer = None

    def advance(self, layer_idx: int) -> None:
        """Say that a layer has run."""
        self._next_layer = layer_idx + 1

    def require(self, next_layer: int) -> None:
        """Check the order of calls."""
        assert self._next_layer is not None, "the chunk was committed, failed, or another one took its place"
        assert self._next_layer == next_layer, f"layer {next_layer} is out of order, expected {self._next_layer}"


class Trunk(Protocol):
    """Runs a decoder layer by layer, for chunks of several sequences side by side.

    The order of calls for a chunk is `begin`, then `run_layer` for layer 0, 1, ... L-1 (each followed by `run_shared`
    where the layer has a shared expert), then `head` if logits are wanted, then `commit`. The residual stream stays
    inside. A chunk that fails half-way is dropped by not calling `commit`: the next `begin` starts clean.

    Calls of different chunks may be interleaved: any number of chunks of one token, each of its own cache, and one
    chunk of several. A `begin` that exceeds this drops the chunk whose place it takes.
    """

    @property
    def weight_bytes(self) -> int:
        """Bytes of memory the loaded weights take, prepacked copies included (measured or from the plan's formula)."""
        ...

    def new_kv_cache(self, context: int) -> KVCache:
        """Allocate keys and values for `context` tokens."""
        ...

    def begin(self, token_ids: NDArray[np.int32], kv: KVCache) -> TrunkChunk:
        """Start a chunk: embed int32 [T] tokens at positions kv.length ... kv.length + T - 1.

        Raises:
            RequestError: the chunk exceeds the context or the largest chunk this trunk was built for.
        """
        ...

    def run_layer(self, chunk: TrunkChunk, layer_idx: int, expert_out: F32 | None) -> LayerOutput:
        """Run attention and router of a layer; a dense layer runs its MLP as well.

        Args:
            chunk: what `begin` returned.
            layer_idx: the next layer in order.
            expert_out: float32 [T, D], combined output of the experts of the layer before, shared ones
                included; None for zero.
        """
        ...

    def run_shared(self, chunk: TrunkChunk, layer_idx: int) -> F32:
        """Return the shared expert's output float32 [T, D] (its gate applied) for the x of the last `run_layer`."""
        ...

    def head(self, chunk: TrunkChunk, expert_out: F32 | None, rows: slice) -> F32:
        """Return logits float32 [rows, V] of the chunk's chosen rows. The caller owns the result."""
        ...

    def look_ahead(self, x: F32, layer_idx: int, depth: int) -> F32:
        """Apply the routers of the next sparse layers to the states that enter the present one's.

        Args:
            x: float32 [T, D], as `run_layer` returned it last for `layer_idx`, of several chunks joined. An engine that
                has it on its device uses that copy.
            layer_idx: a sparse layer.
            depth: most layers to look ahead.

        Returns:
            Router logits float32 [p, T, E], nearest layer first; p is less than `depth` near the last layer. Valid
            until the next call.
        """
        ...

    def commit(self, chunk: TrunkChunk) -> None:
        """Make the chunk's keys and values part of the cache."""
        ...

    def close(self) -> None:
        """Release sessions and buffers."""
        ...
