"""The trunk: everything but routed experts. A part of a backend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

from edge_runtime.backends.chunks import ChunkCuts, ExpectedStates, LayerOutput, TrunkChunk
from edge_runtime.backends.kernels import ExpertKernels
from edge_runtime.backends.token_compute import TokenCompute
from edge_runtime.base.arrays import F32, I32

T = TypeVar("T")


class KVCache(Protocol):
    """What layers keep of one sequence, in the trunk's own memory. Only its trunk looks inside.

    Keys and values can be cut after any token. States of recurrent layers cannot: they are there after the last token,
    after that of the commit before, and at some lengths that were asked for by `want`.
    """

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        ...

    @property
    def context(self) -> int:
        """Tokens the cache can hold."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        ...

    def reset(self) -> None:
        """Forget every token."""
        ...

    def nearest(self, length: int) -> int:
        """Return the most tokens, at most `length`, that `truncate` can keep and `copy_from` can take."""
        ...

    def want(self, lengths: Iterable[int]) -> None:
        """Say after how many tokens a later prompt may part from these; passes that come there remember the state.

        Replaces what was said before. A cache may keep fewer, or none where it can be cut anyway.
        """
        ...

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens.

        Raises:
            RequestError: there are fewer, or no state is kept after as many, see `nearest`.
        """
        ...

    def copy_from(self, other: KVCache, length: int) -> None:
        """Hold the first `length` tokens of another cache of the same trunk and context, and nothing else.

        The copy may run late. If it fails, so does `Trunk.commit` of whatever runs behind it.

        Raises:
            RequestError: it has fewer, or no state after as many, see `nearest`.
        """
        ...


class Trunk(Protocol[T]):
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

    @property
    def build(self) -> str:
        """Names its build, where it was built on this machine; "" for those that are not.

        It changes when it is built again: the same graphs may then be computed by other kernels.
        """
        ...

    def new_kv_cache(self, context: int) -> KVCache:
        """Allocate what layers keep of `context` tokens."""
        ...

    def begin(self, token_ids: I32, kv: KVCache) -> TrunkChunk:
        """Start a chunk: embed int32 [N] tokens at positions kv.length ... kv.length + N - 1.

        Raises:
            RequestError: the chunk exceeds the context or the largest chunk this trunk was built for.
        """
        ...

    def run_layer(self, chunk: TrunkChunk, layer_idx: int, expert_out: T | None) -> LayerOutput[T] | None:
        """Run attention and router of a layer, as far as it has them; a dense layer runs its MLP as well.

        Args:
            chunk: what `begin` returned.
            layer_idx: the next layer in order.
            expert_out: [N, D], combined output of the experts of the layer before, shared ones included; None for zero.

        Returns:
            None for a layer without experts.
        """
        ...

    def run_shared(self, chunk: TrunkChunk, layer_idx: int) -> T | None:
        """Run what every token of the last `run_layer` passes beside its experts.

        Returns:
            The shared expert's output [N, D], gate applied, to be added to the experts'; valid with x. None for a
            network in parallel: its output stays inside, and joins when the next layer, or the head, runs.
        """
        ...

    def head(self, chunk: TrunkChunk, expert_out: T | None, rows: slice) -> F32:
        """Return logits float32 [rows, V] of the chunk's chosen rows, on the host. The caller owns the result."""
        ...

    @property
    def expected_states(self) -> ExpectedStates[T] | None:
        """Says what enters the next router, where the backend can; else `look_ahead` takes `LayerOutput.seen`."""
        ...

    @property
    def chunk_cuts(self) -> ChunkCuts[T] | None:
        """Drops tokens of chunks on their way; None: it cannot, or a token's bits depend on the chunk."""
        ...

    def token_compute(self, kernels: ExpertKernels[T]) -> TokenCompute[T] | None:
        """Return what native code calls this trunk and kernels by, the same every time; None: Python has to call them.

        Asked for every token.
        """
        ...

    def look_ahead(self, x: T, layer_idx: int, depth: int) -> F32:
        """Apply the routers of the next sparse layers to what enters the present one's, or may enter the next one's.

        Args:
            x: [N, D], `LayerOutput.seen` as `run_layer` returned it last for `layer_idx`, or what `expected_states`
                says, of several chunks joined.
            layer_idx: a sparse layer, or -1 before the first layer.
            depth: most layers to look ahead.

        Returns:
            Router logits float32 [p, N, E] on the host, nearest layer first; p is less than `depth` near the last
            layer. Valid until the next call.
        """
        ...

    def set_routers(self, routers: Any) -> None:
        """Take what `look_ahead` applies, as `Backend.load_routers` gave it, or forget it for None; between passes."""
        ...

    def commit(self, chunk: TrunkChunk) -> None:
        """Make the chunk's keys and values part of the cache, once they have been computed.

        Raises:
            DeviceError: some of the chunk's work failed; the cache stays as it was.
        """
        ...

    def close(self) -> None:
        """Release weights and buffers."""
        ...
