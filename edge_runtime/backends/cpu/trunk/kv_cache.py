"""What layers keep of one sequence, in a layout the graphs read without a copy. Pure bookkeeping over numpy arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from edge_runtime.backends.cpu.trunk.recurrent import FixedStates, Stop
from edge_runtime.backends.trunk import KVCache
from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import RequestError
from edge_runtime.base.spec import ModelSpec, StateArray

_FIRST_BUCKETS = (256, 512, 1024)
_BUCKET_STEP = 512


def bucket_for(tokens: int, context: int) -> int:
    """Return how many slots a graph sees when `tokens` are in use: 256, 512, 1024, then steps of 512, at most context.

    Attention costs time for every slot it sees, used or not; a graph's bindings are rebuilt when the bucket changes.
    """
    for bucket in _FIRST_BUCKETS:
        if tokens <= bucket:
            return min(bucket, context)
    return min(-(-tokens // _BUCKET_STEP) * _BUCKET_STEP, context)


class HostKVCache:
    """Float32 state of `context` tokens for every layer, as `edge_runtime.base.spec.state_of` lists it.

    An array that grows, such as a layer's keys, is one flat buffer of G * context * C numbers, laid out as [1, G, S, C]
    for the current bucket of S slots; when the bucket grows, heads move apart in place. Slots from `length` on may hold
    anything finite (zero at first, later leftovers): the mask hides them, and a chunk's keys become part of the cache
    only by `advance`. Arrays of fixed size are those of `FixedStates`.
    """

    def __init__(self, layers: Sequence[Sequence[StateArray]], context: int) -> None:
        """Reserve memory for `context` tokens; the system hands out pages as slots are first written.

        Args:
            layers: the arrays of every layer.
            context: tokens.
        """
        if context < 1:
            raise RequestError(f"context: expected at least 1 token, got {context}")
        self._context = context
        self._length = 0
        self._bucket = bucket_for(1, context)
        self._growing = [[array for array in layer if array.grows] for layer in layers]
        self._flat = [[np.zeros(array.numbers * context, np.float32) for array in layer] for layer in self._growing]
        self._past = self._views()
        self.fixed = FixedStates(layers)

    @staticmethod
    def of(spec: ModelSpec, context: int) -> HostKVCache:
        """Reserve memory for a model's layers."""
        return HostKVCache([spec.state_of(i) for i in range(spec.num_layers)], context)

    @staticmethod
    def bytes_for(spec: ModelSpec, context: int) -> int:
        """Return the bytes a cache of `context` tokens takes; for 0 tokens what does not grow with them."""
        layers = (spec.state_of(i) for i in range(spec.num_layers))
        growing = sum(array.numbers for layer in layers for array in layer if array.grows)
        return 4 * growing * context + FixedStates.bytes_for(spec)

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self._length

    @property
    def context(self) -> int:
        """Tokens the cache can hold."""
        return self._context

    @property
    def bucket(self) -> int:
        """Slots S of the current layout."""
        return self._bucket

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        return sum(flat.nbytes for layer in self._flat for flat in layer) + self.fixed.nbytes

    def reset(self) -> None:
        """Forget every token."""
        self._length = 0
        self._bucket = bucket_for(1, self._context)
        self._past = self._views()
        self.fixed.clear()

    def nearest(self, length: int) -> int:
        """See `KVCache.nearest`."""
        return self.fixed.nearest(min(length, self._length))

    def want(self, lengths: Iterable[int]) -> None:
        """See `KVCache.want`."""
        self.fixed.want(lengths)

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens.

        Raises:
            RequestError: there are fewer, or no state after as many is here.
        """
        if not 0 <= length <= self._length:
            raise RequestError(f"truncate: expected 0 to {self._length} tokens to keep, got {length}")
        self._require_state(self, length)
        self.fixed.cut(length)
        self._length = length

    def copy_from(self, other: KVCache, length: int) -> None:
        """Hold the first `length` tokens of another cache of the same model and context, and nothing else.

        Raises:
            RequestError: it has fewer, or no state after as many.
        """
        assert isinstance(other, HostKVCache)
        if not 0 <= length <= other.length:
            raise RequestError(f"copy: expected 0 to {other.length} tokens, got {length}")
        self._require_state(other, length)
        self.reset()
        self.require(length)
        for mine, theirs in zip(self._past, other._past, strict=True):
            for array, more in zip(mine, theirs, strict=True):
                array[:, :, :length] = more[:, :, :length]
        self.fixed.copy_from(other.fixed, length)
        self._length = length

    def require(self, tokens: int) -> None:
        """Make room for `tokens` more, laying heads out anew if the bucket must grow.

        Raises:
            RequestError: they do not fit the context.
        """
        need = self._length + tokens
        if need > self._context:
            raise RequestError(
                f"context: {self._length} tokens in the cache and {tokens} more exceed the context of {self._context}. "
                "Shorten the prompt or start with a larger context."
            )
        bucket = bucket_for(need, self._context)
        if bucket > self._bucket:
            self._spread(bucket)
            self._bucket = bucket
            self._past = self._views()

    def begin(self, tokens: int, *, snapshots: bool = True) -> list[Stop]:
        """Make room for `tokens` more and choose where their fixed states go.

        Args:
            tokens: of the pass.
            snapshots: states within the pass are kept where they are wanted, else only those at its end.

        Returns:
            Where to hand them over, see `FixedStates.begin`; empty without any.

        Raises:
            RequestError: they do not fit the context.
        """
        self.require(tokens)
        return self.fixed.begin(self._length, tokens, snapshots=snapshots)

    def past(self, layer_idx: int) -> list[F32]:
        """Return writable views of a layer's growing arrays, each [1, G, S, C], valid until the bucket changes."""
        return self._past[layer_idx]

    def write(self, layer_idx: int, new: Sequence[F32]) -> None:
        """Put a chunk's part of growing arrays, float32 [1, G, T, C], behind the last token; `advance` counts it."""
        start = self._length
        for past, part in zip(self._past[layer_idx], new, strict=True):
            past[:, :, start : start + part.shape[2]] = part

    def advance(self, tokens: int) -> None:
        """Count `tokens` written slots as part of the cache, and the fixed states behind them as present."""
        assert self._length + tokens <= self._bucket
        self.fixed.commit(self._length, tokens)
        self._length += tokens

    def _views(self) -> list[list[F32]]:
        """Shape the front of every flat buffer for the current bucket."""
        return [
            [_front(flat, array, self._bucket) for flat, array in zip(flats, arrays, strict=True)]
            for flats, arrays in zip(self._flat, self._growing, strict=True)
        ]

    def _spread(self, bucket: int) -> None:
        """Move heads from the current stride to that of `bucket` slots, last head first so that none is overwritten."""
        for flats, arrays in zip(self._flat, self._growing, strict=True):
            for flat, array in zip(flats, arrays, strict=True):
                heads, dim = array.shape
                used, old, new = self._length * dim, self._bucket * dim, bucket * dim
                for head in range(heads - 1, 0, -1):  # one at a time: numpy copies what overlaps
                    flat[head * new : head * new + used] = flat[head * old : head * old + used]

    @staticmethod
    def _require_state(cache: HostKVCache, length: int) -> None:
        nearest = cache.nearest(length)
        if nearest != length:
            raise RequestError(
                f"length: a state cannot be cut after {length} tokens, the nearest one kept is after {nearest}"
            )


def _front(flat: F32, array: StateArray, slots: int) -> F32:
    heads, dim = array.shape
    return flat[: heads * slots * dim].reshape(1, heads, slots, dim)
