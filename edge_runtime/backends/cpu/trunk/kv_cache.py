"""Keys and values of one sequence, in a layout the graphs read without a copy. Pure bookkeeping over numpy arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.trunk import KVCache
from edge_runtime.base.errors import RequestError
from edge_runtime.base.spec import ModelSpec

F32 = NDArray[np.float32]

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
    """Float32 keys and values of `context` tokens for every layer.

    A layer's keys are one flat buffer of G * context * C numbers, laid out as [1, G, S, C] for the current bucket of S
    slots; when the bucket grows, heads move apart in place. Slots from `length` on may hold anything finite (zero at
    first, later leftovers): the mask hides them, and a chunk's keys become part of the cache only by `advance`.
    """

    def __init__(self, num_layers: int, num_kv_heads: int, head_dim: int, context: int) -> None:
        """Reserve memory for `context` tokens; the system hands out pages as slots are first written."""
        if context < 1:
            raise RequestError(f"context: expected at least 1 token, got {context}")
        self._heads = num_kv_heads
        self._dim = head_dim
        self._context = context
        self._length = 0
        self._bucket = bucket_for(1, context)
        self._flat = np.zeros((num_layers, 2, num_kv_heads * context * head_dim), np.float32)
        self._past = self._views()

    @staticmethod
    def bytes_for(spec: ModelSpec, context: int) -> int:
        """Return the bytes a cache of `context` tokens takes."""
        return spec.num_layers * 2 * spec.attention.num_kv_heads * spec.attention.head_dim * context * 4

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
        return self._flat.nbytes

    def reset(self) -> None:
        """Forget every token."""
        self._length = 0
        self._bucket = bucket_for(1, self._context)
        self._past = self._views()

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens.

        Raises:
            RequestError: there are fewer.
        """
        if not 0 <= length <= self._length:
            raise RequestError(f"truncate: expected 0 to {self._length} tokens to keep, got {length}")
        self._length = length

    def copy_from(self, other: KVCache, length: int) -> None:
        """Hold the first `length` tokens of another cache of the same model and context, and nothing else.

        Raises:
            RequestError: it has fewer.
        """
        assert isinstance(other, HostKVCache)
        if not 0 <= length <= other.length:
            raise RequestError(f"copy: expected 0 to {other.length} tokens, got {length}")
        self.reset()
        self.require(length)
        for (keys, values), (more_keys, more_values) in zip(self._past, other._past, strict=True):
            keys[:, :, :length] = more_keys[:, :, :length]
            values[:, :, :length] = more_values[:, :, :length]
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

    def past(self, layer_idx: int) -> tuple[F32, F32]:
        """Return writable views (keys, values), each [1, G, S, C], valid until the bucket changes."""
        return self._past[layer_idx]

    def write(self, layer_idx: int, keys: F32, values: F32) -> None:
        """Put a chunk's keys and values, float32 [1, G, T, C], behind the last token, not counted until `advance`."""
        past_k, past_v = self._past[layer_idx]
        stop = self._length + keys.shape[2]
        past_k[:, :, self._length : stop] = keys
        past_v[:, :, self._length : stop] = values

    def advance(self, tokens: int) -> None:
        """Count `tokens` written slots as part of the cache."""
        assert self._length + tokens <= self._bucket
        self._length += tokens

    def _views(self) -> list[tuple[F32, F32]]:
        """Shape the front of every flat buffer for the current bucket."""
        shape = (1, self._heads, self._bucket, self._dim)
        size = self._heads * self._bucket * self._dim
        return [(layer[0, :size].reshape(shape), layer[1, :size].reshape(shape)) for layer in self._flat]

    def _spread(self, bucket: int) -> None:
        """Move heads from the current stride to that of `bucket` slots, last head first so that none is overwritten."""
        used, old, new = self._length * self._dim, self._bucket * self._dim, bucket * self._dim
        for flat in self._flat.reshape(-1, self._flat.shape[-1]):  # one at a time: numpy copies what overlaps
            for head in range(self._heads - 1, 0, -1):
                flat[head * new : head * new + used] = flat[head * old : head * old + used]
