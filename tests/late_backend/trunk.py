"""The trunk on the late device: the CPU backend's, run by the device's thread in the order of its queue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from edge_runtime.backends.chunks import LayerOutput, TrunkChunk
from edge_runtime.backends.cpu.trunk.kv_cache import HostKVCache
from edge_runtime.backends.cpu.trunk.ort import OrtTrunk
from edge_runtime.backends.trunk import KVCache
from edge_runtime.base.arrays import F32, I32
from edge_runtime.base.errors import RequestError
from edge_runtime.base.spec import ModelSpec
from late_backend.device import COMPUTE, Device
from late_backend.tensors import LateTensor, Numbers, fetched


class LateKVCache:
    """Keys and values on the device; their number is known on the host. Implements `KVCache`."""

    def __init__(self, device: Device, inner: HostKVCache) -> None:
        self._device, self.inner = device, inner
        self.context, self.nbytes, self.length = inner.context, inner.nbytes, 0

    def reset(self) -> None:
        """See `KVCache.reset`: after the work that was queued before."""
        self.length = 0
        self._device.push(COMPUTE, "kv", self.inner.reset)

    def nearest(self, length: int) -> int:
        """See `KVCache.nearest`: of states that cannot be cut it is known once the work queued before is done."""
        if not self.inner.fixed.nbytes:
            return min(length, self.length)
        self._device.finish()
        return self.inner.nearest(length)

    def want(self, lengths: Iterable[int]) -> None:
        """See `KVCache.want`: after the work that was queued before."""
        wanted = [*lengths]
        self._device.push(COMPUTE, "kv", lambda: self.inner.want(wanted))

    def truncate(self, length: int) -> None:
        """See `KVCache.truncate`."""
        if not 0 <= length <= self.length:
            raise RequestError(f"truncate: expected 0 to {self.length} tokens to keep, got {length}")
        self.length = length
        self._device.push(COMPUTE, "kv", lambda: self.inner.truncate(length))

    def copy_from(self, other: KVCache, length: int) -> None:
        """See `KVCache.copy_from`: after the work that was queued before, the other cache's included."""
        assert isinstance(other, LateKVCache)
        if not 0 <= length <= other.length:
            raise RequestError(f"copy: expected 0 to {other.length} tokens, got {length}")
        self.length = length
        self._device.push(COMPUTE, "kv", lambda: self.inner.copy_from(other.inner, length))


class LateChunk(TrunkChunk):
    """A chunk in progress. Its outputs are retired when the next layer writes them again."""

    def __init__(self, tokens: int, kv: LateKVCache) -> None:
        super().__init__(tokens)
        self.kv = kv
        self.inner: Any = None  # set by the device
        self._outputs: list[Numbers] = []

    def retire(self, outputs: list[Numbers]) -> None:
        """The memory of the last outputs is now that of these."""
        for numbers in self._outputs:
            numbers.retire()
        self._outputs = outputs

    def also(self, output: Numbers) -> None:
        """One more output, valid as long as the others."""
        self._outputs.append(output)


class LateTrunk:
    """Implements `Trunk`."""

    expected_states = chunk_cuts = None
    build = ""

    def __init__(self, device: Device, inner: OrtTrunk, spec: ModelSpec, max_chunk: int) -> None:
        self._device, self._inner, self._spec, self._max_chunk = device, inner, spec, max_chunk
        self._open: WeakKeyDictionary[LateKVCache, LateChunk] = WeakKeyDictionary()
        self._long: LateChunk | None = None

    @property
    def weight_bytes(self) -> int:
        """See `Trunk.weight_bytes`."""
        return self._inner.weight_bytes

    def new_kv_cache(self, context: int) -> LateKVCache:
        """See `Trunk.new_kv_cache`."""
        return LateKVCache(self._device, self._inner.new_kv_cache(context))

    def begin(self, token_ids: I32, kv: KVCache) -> LateChunk:
        """See `Trunk.begin`: what can be wrong with a request is found here, on the host."""
        assert isinstance(kv, LateKVCache)
        tokens, ids = len(token_ids), token_ids.copy()
        if not 1 <= tokens <= self._max_chunk:
            raise RequestError(f"chunk: expected 1 to {self._max_chunk} tokens at a time, got {tokens}")
        if kv.length + tokens > kv.context:
            raise RequestError(f"context: {kv.length} and {tokens} more tokens exceed the context of {kv.context}.")
        for dropped in (self._open.get(kv), self._long if tokens > 1 else None):
            if dropped is not None:
                dropped.next_layer = None
                dropped.retire([])
        chunk = self._open[kv] = LateChunk(tokens, kv)
        self._long = chunk if tokens > 1 else self._long

        def run() -> None:
            chunk.inner = self._inner.begin(ids, kv.inner)

        self._device.push(COMPUTE, "trunk", run)
        return chunk

    def run_layer(
        self, chunk: TrunkChunk, layer_idx: int, expert_out: LateTensor | None
    ) -> LayerOutput[LateTensor] | None:
        """See `Trunk.run_layer`."""
        assert isinstance(chunk, LateChunk)
        chunk.require(layer_idx)
        source = None if expert_out is None else expert_out.numbers
        spec = self._spec
        is_sparse = spec.layers[layer_idx].sparse
        widths = (spec.hidden, spec.num_experts) if is_sparse else ()
        widths += (spec.hidden,) if is_sparse and spec.router.norm_scale is not None else ()
        outs = [Numbers(self._device, (chunk.tokens, width)) for width in widths]
        chunk.retire([*outs])
        chunk.next_layer = layer_idx + 1

        def run() -> None:
            found = self._inner.run_layer(chunk.inner, layer_idx, None if source is None else source.array)
            if found is not None:
                for numbers, array in zip(outs, (found.x, found.router_logits, found.router_x), strict=False):
                    numbers.array = array.copy()

        self._device.push(COMPUTE, "trunk", run)
        return LayerOutput(*map(LateTensor, outs)) if is_sparse else None

    def run_shared(self, chunk: TrunkChunk, layer_idx: int) -> LateTensor | None:
        """See `Trunk.run_shared`."""
        assert isinstance(chunk, LateChunk)
        chunk.require(layer_idx + 1)
        if self._spec.is_parallel(layer_idx):
            self._device.push(COMPUTE, "trunk", lambda: self._inner.run_shared(chunk.inner, layer_idx))
            return None
        out = Numbers(self._device, (chunk.tokens, self._spec.hidden))
        chunk.also(out)

        def run() -> None:
            out.array = self._inner.run_shared(chunk.inner, layer_idx).copy()

        self._device.push(COMPUTE, "trunk", run)
        return LateTensor(out)

    def head(self, chunk: TrunkChunk, expert_out: LateTensor | None, rows: slice) -> F32:
        """See `Trunk.head`: waits, the numbers go to the host."""
        assert isinstance(chunk, LateChunk)
        chunk.require(self._spec.num_layers)
        source = None if expert_out is None else expert_out.numbers
        shape = len(range(*rows.indices(chunk.tokens))), self._spec.vocab_size
        return fetched(
            self._device,
            shape,
            "trunk",
            lambda: self._inner.head(chunk.inner, None if source is None else source.array, rows),
        )

    def token_compute(self, kernels: object) -> None:
        """See `Trunk.token_compute`: Python calls it."""

    def look_ahead(self, x: LateTensor, layer_idx: int, depth: int) -> F32:
        """See `Trunk.look_ahead`: waits, the numbers go to the host."""
        source, sparse = x.numbers, self._spec.sparse_layers
        layers = min(depth, len(sparse) - 1 - sparse.index(layer_idx))
        shape = layers, source.shape[0], self._spec.num_experts
        return fetched(
            self._device, shape, "look ahead", lambda: self._inner.look_ahead(source.array, layer_idx, depth)
        )

    def set_routers(self, routers: Any) -> None:
        """See `Trunk.set_routers`; done when it returns."""
        self._device.push(COMPUTE, "set routers", lambda: self._inner.set_routers(routers))
        self._device.finish()

    def commit(self, chunk: TrunkChunk) -> None:
        """See `Trunk.commit`: waits, so that nothing counts that has failed."""
        assert isinstance(chunk, LateChunk)
        chunk.require(self._spec.num_layers)
        self._device.finish()
        chunk.next_layer = None
        chunk.retire([])
        chunk.kv.length += chunk.tokens
        self._open.pop(chunk.kv, None)
        self._long = None if self._long is chunk else self._long
        self._device.push(COMPUTE, "trunk", lambda: self._inner.commit(chunk.inner))

    def close(self) -> None:
        """See `Trunk.close`."""
        self._device.finish()
        self._open.clear()
        self._long = None
        self._inner.close()
