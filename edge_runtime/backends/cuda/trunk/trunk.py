"""The trunk on the GPU. Implements `Trunk`; tensors are `DeviceTensor`. It waits only where numbers are read."""

from __future__ import annotations

from weakref import WeakKeyDictionary, WeakSet

import numpy as np

from edge_runtime.backends.chunks import LayerOutput, TrunkChunk
from edge_runtime.backends.cpu.trunk.embedding import Embedding
from edge_runtime.backends.cpu.trunk.rope import Rotary
from edge_runtime.backends.cuda.driver import DeviceMemory, Module, Stream
from edge_runtime.backends.cuda.tensors import DeviceTensor, Readback
from edge_runtime.backends.cuda.trunk.buffers import PASSAGE_AT, POSITION, TokenBuffers
from edge_runtime.backends.cuda.trunk.kv_cache import CudaKVCache
from edge_runtime.backends.cuda.trunk.launches import DeviceMatrix, TrunkLaunches
from edge_runtime.backends.cuda.trunk.parts import TrunkParts
from edge_runtime.backends.trunk import KVCache
from edge_runtime.base.arrays import F32, I32
from edge_runtime.base.errors import RequestError
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.part_names import EMBEDDING

HEAD_ROWS = 8
"""Tokens whose logits are computed at once."""


class CudaChunk(TrunkChunk):
    """A chunk in progress and the buffers it runs over."""

    def __init__(self, tokens: int, kv: CudaKVCache, at: TokenBuffers) -> None:
        super().__init__(tokens)
        self.kv, self.at = kv, at


class CudaTrunk:
    """Implements `Trunk`.

    Args:
        bundle: an open bundle whose parts were checked.
        parts: compute layers and head; closed with this.
        module: the kernels.
        stream: orders all work.
        max_chunk: most tokens `begin` will be given at once.

    Raises:
        BundleError: the embedding is not of the exporter's kind.
    """

    expected_states = chunk_cuts = None

    def __init__(self, bundle: Bundle, parts: TrunkParts, module: Module, stream: Stream, max_chunk: int) -> None:
        spec = self._spec = bundle.manifest.model
        self._stream, self._max_chunk, self._parts = stream, max_chunk, parts
        table, stored = bundle.path / EMBEDDING, bundle.manifest.trunk.embedding
        try:
            self._embedding = Embedding(table, spec.vocab_size, spec.hidden, stored, spec.embedding_scale)
        except BaseException:
            parts.close()
            raise
        self._launches = TrunkLaunches(module, stream)
        self._rotary = [Rotary(rope, spec.max_context) for rope in spec.ropes]
        self._readback = Readback(stream)
        self._caches: WeakSet[CudaKVCache] = WeakSet()
        self._of_one: WeakKeyDictionary[CudaKVCache, TokenBuffers] = WeakKeyDictionary()
        self._of_many: TokenBuffers | None = None
        self._open: WeakKeyDictionary[CudaKVCache, CudaChunk] = WeakKeyDictionary()
        self._long: CudaChunk | None = None
        self._logits: DeviceMemory | None = None
        self._routers: DeviceMemory | None = None

    @property
    def weight_bytes(self) -> int:
        """See `Trunk.weight_bytes`."""
        return self._parts.nbytes + (self._routers.nbytes if self._routers is not None else 0)

    @property
    def build(self) -> str:
        """See `Trunk.build`."""
        return self._parts.build

    def new_kv_cache(self, context: int) -> CudaKVCache:
        """See `Trunk.new_kv_cache`."""
        self._parts.prepare(context)
        parts = self._parts
        kv = CudaKVCache(
            self._stream, self._spec, context, item_bytes=parts.cache_item_bytes, is_read_whole=parts.reads_whole_caches
        )
        self._caches.add(kv)
        return kv

    def begin(self, token_ids: I32, kv: KVCache) -> CudaChunk:
        """See `Trunk.begin`."""
        assert isinstance(kv, CudaKVCache)
        tokens = len(token_ids)
        if not 1 <= tokens <= self._max_chunk:
            raise RequestError(f"chunk: expected 1 to {self._max_chunk} tokens at a time, got {tokens}")
        if kv.length + tokens > kv.context:
            raise RequestError(
                f"context: {kv.length} tokens in the cache and {tokens} more exceed the context of {kv.context}. "
                "Shorten the prompt or start with a larger context."
            )
        rows = np.empty((tokens, self._spec.hidden), np.float32)
        self._embedding.gather(token_ids, rows)
        for dropped in (self._open.get(kv), self._long if tokens > 1 else None):
            self._drop(dropped)
        if tokens > 1:
            self._stream.holds = False
        at = self._buffers(kv, tokens)
        at.write("resid", rows)
        at.write(POSITION, np.array([kv.length], np.int32))
        at.write(PASSAGE_AT, kv.begin(tokens))
        for i, rotary in enumerate(self._rotary):
            for name, angles in zip(("cos", "sin"), rotary.cos_sin(kv.length, tokens, kv.context), strict=True):
                at.write(f"{name}{i}", angles)
        self._parts.begin(at, kv, tokens)
        chunk = self._open[kv] = CudaChunk(tokens, kv, at)
        self._long = chunk if tokens > 1 else self._long
        return chunk

    def run_layer(
        self, chunk: TrunkChunk, layer_idx: int, expert_out: DeviceTensor | None
    ) -> LayerOutput[DeviceTensor] | None:
        """See `Trunk.run_layer`."""
        c, spec = _running(chunk, layer_idx), self._spec
        c.next_layer = None  # what failed half-way leaves the chunk unusable
        out = 0 if expert_out is None else expert_out.address
        self._parts.run_layer(layer_idx, c.at, c.kv, c.tokens, out)
        c.next_layer = layer_idx + 1
        if not spec.layers[layer_idx].sparse:
            return None
        x = DeviceTensor(c.at.at("x"), c.tokens, spec.hidden)
        logits = DeviceTensor(c.at.at("router_logits"), c.tokens, spec.num_experts)
        if spec.router.norm_scale is None:
            return LayerOutput(x, logits)
        return LayerOutput(x, logits, DeviceTensor(c.at.at("router_x"), c.tokens, spec.hidden))

    def run_shared(self, chunk: TrunkChunk, layer_idx: int) -> DeviceTensor | None:
        """See `Trunk.run_shared`."""
        c = _running(chunk, layer_idx + 1)
        self._parts.run_shared(layer_idx, c.at, c.tokens)
        if self._spec.is_parallel(layer_idx):
            return None
        return DeviceTensor(c.at.at("y"), c.tokens, self._spec.hidden)

    def head(self, chunk: TrunkChunk, expert_out: DeviceTensor | None, rows: slice) -> F32:
        """See `Trunk.head`: waits, the numbers go to the host."""
        c, spec = _running(chunk, self._spec.num_layers), self._spec
        found, out = range(c.tokens)[rows], 0 if expert_out is None else expert_out.address
        assert found.step == 1, "rows side by side"
        logits = np.empty((len(found), spec.vocab_size), np.float32)
        for first in range(0, len(found), HEAD_ROWS):
            count = min(HEAD_ROWS, len(found) - first)
            room = self._room(4 * HEAD_ROWS * spec.vocab_size).address
            self._parts.head(c.at, (found.start + first, count), out, room)
            logits[first : first + count] = self._readback.fetch(room, count, spec.vocab_size)
        return self._parts.finish(logits)

    def token_compute(self, kernels: object) -> None:
        """See `Trunk.token_compute`: Python calls it."""

    def look_ahead(self, x: DeviceTensor, layer_idx: int, depth: int) -> F32:
        """See `Trunk.look_ahead`: waits, the numbers go to the host."""
        spec = self._spec
        assert self._routers is not None, "the trunk was not asked to look ahead"
        first = spec.sparse_layers.index(layer_idx) + 1
        count, numbers = max(0, min(depth, len(spec.sparse_layers) - first)), x.rows * spec.num_experts
        if not count:
            return np.empty((0, x.rows, spec.num_experts), np.float32)
        out = self._room(4 * count * numbers).address
        for i in range(count):
            router = self._routers.address + 4 * (first + i) * spec.hidden * spec.num_experts
            matrix = DeviceMatrix(spec.hidden, spec.num_experts, router)
            self._launches.linear(x.address, matrix, out + 4 * i * numbers, x.rows)
        return self._readback.fetch(out, count, x.rows, spec.num_experts)

    def set_routers(self, routers: F32 | None) -> None:
        """See `Trunk.set_routers`."""
        if self._routers is not None:
            self._routers.close()
            self._routers = None
        if routers is not None:
            self._routers = DeviceMemory(self._stream.device, routers.nbytes)
            self._routers.write(np.ascontiguousarray(routers), self._stream)

    def commit(self, chunk: TrunkChunk) -> None:
        """See `Trunk.commit`: waits, so that nothing counts that has failed."""
        c = _running(chunk, self._spec.num_layers)
        self._stream.synchronize()
        c.kv.commit(c.tokens)
        self._drop(c)

    def close(self) -> None:
        """See `Trunk.close`: caches go as well."""
        self._open.clear()
        self._long = None
        held = [*self._caches, *self._of_one.values(), self._of_many, self._logits, self._routers]
        self._of_one.clear()
        self._of_many = self._logits = self._routers = None
        for memory in held:
            if memory is not None:
                memory.close()
        self._readback.close()
        self._parts.close()
        self._embedding.close()

    def _buffers(self, kv: CudaKVCache, tokens: int) -> TokenBuffers:
        """Return a chunk's buffers: those of single tokens by cache, so that they can run side by side."""
        if tokens > 1:
            if self._of_many is None:
                self._of_many = TokenBuffers(self._stream, self._parts.widths(self._max_chunk), self._max_chunk)
            return self._of_many
        found = self._of_one.get(kv)
        if found is None:
            found = self._of_one[kv] = TokenBuffers(self._stream, self._parts.widths(1), 1)
        return found

    def _room(self, nbytes: int) -> DeviceMemory:
        """Return memory for logits; the same until more is needed."""
        if self._logits is None or self._logits.nbytes < nbytes:
            if self._logits is not None:
                self._logits.close()  # waits for kernels that use it
                self._logits = None
            self._logits = DeviceMemory(self._stream.device, nbytes)
        return self._logits

    def _drop(self, chunk: CudaChunk | None) -> None:
        if chunk is not None:
            chunk.next_layer = None
            self._open.pop(chunk.kv, None)
            self._long = None if self._long is chunk else self._long


def _running(chunk: TrunkChunk, next_layer: int) -> CudaChunk:
    assert isinstance(chunk, CudaChunk)
    chunk.require(next_layer)
    return chunk
