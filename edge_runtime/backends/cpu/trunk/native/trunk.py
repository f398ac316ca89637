"""The trunk on native kernels. A token's numbers are the same however its sequence is cut into chunks."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from edge_runtime.backends.chunks import LayerOutput, TrunkChunk
from edge_runtime.backends.cpu.experts import CpuKernels
from edge_runtime.backends.cpu.kernels import DenseTrunk, Frame, Team, TokenCompute
from edge_runtime.backends.cpu.trunk.embedding import Embedding
from edge_runtime.backends.cpu.trunk.kv_cache import HostKVCache
from edge_runtime.backends.cpu.trunk.native.forms import model_form
from edge_runtime.backends.cpu.trunk.native.frames import ChunkFrame
from edge_runtime.backends.cpu.trunk.native.layers import LayerReader
from edge_runtime.backends.cpu.trunk.rope import Rotary
from edge_runtime.backends.trunk import KVCache
from edge_runtime.base.arrays import F32, I32
from edge_runtime.base.errors import RequestError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.manifest import EmbeddingDtype
from edge_runtime.bundle.part_names import EMBEDDING


class _Chunk(TrunkChunk):
    """A chunk in progress and what it runs over."""

    def __init__(self, tokens: int, kv: HostKVCache, at: ChunkFrame) -> None:
        super().__init__(tokens)
        self.kv, self.at = kv, at
        self.frame: Frame = at.frame
        self.output = at.output(tokens)


class TokenCalls:
    """Trunk and kernels as native code calls them. Implements `TokenCompute`.

    Args:
        trunk: runs chunks of one token, among others.
        kernels: compute experts for them.
    """

    def __init__(self, trunk: DenseTrunk, kernels: CpuKernels) -> None:
        self.kernels, self.out = kernels, kernels.out_of_one
        self.native = TokenCompute(trunk, kernels.native)

    def frame_of(self, chunk: TrunkChunk) -> Frame:
        """See `TokenCompute.frame_of`."""
        assert isinstance(chunk, _Chunk)
        return chunk.frame


class NativeTrunk:
    """Implements `Trunk` for models that `supported.why_not` has nothing against; tensors are float32 arrays.

    Args:
        bundle_path: directory of a bundle whose parts were checked.
        spec: the bundle's model.
        team: the threads that compute.
        max_chunk: most tokens `begin` will be given at once.
        embedding: number type of the embedding table, from the manifest.
        isa: instruction set; "auto" is the best there is.

    Raises:
        BundleError: a graph or the embedding is not of the exporter's kind.
    """

    build = ""

    def __init__(
        self,
        bundle_path: Path,
        spec: ModelSpec,
        *,
        team: Team,
        max_chunk: int,
        embedding: EmbeddingDtype = "bf16",
        isa: str = "auto",
    ) -> None:
        self._spec, self._max_chunk = spec, max_chunk
        table = bundle_path / EMBEDDING
        self._embedding = Embedding(table, spec.vocab_size, spec.hidden, embedding, spec.embedding_scale)
        reader = LayerReader(bundle_path, spec, isa)
        try:
            self._native = DenseTrunk(model_form(spec), reader.read(), team, isa, max_chunk)
        except BaseException:
            self._embedding.close()
            raise
        self.weight_bytes = reader.nbytes
        """Bytes of the packed weights."""
        self._sparse_after = dict(pairwise(spec.sparse_layers))
        self._rotary = [Rotary(rope, spec.max_context) for rope in spec.ropes]
        self._of_one: WeakKeyDictionary[HostKVCache, ChunkFrame] = WeakKeyDictionary()
        self._of_many: ChunkFrame | None = None
        self._open: WeakKeyDictionary[HostKVCache, _Chunk] = WeakKeyDictionary()
        self._long: _Chunk | None = None
        self._token_calls: TokenCalls | None = None

    def new_kv_cache(self, context: int) -> HostKVCache:
        """See `Trunk.new_kv_cache`."""
        return HostKVCache.of(self._spec, context)

    def begin(self, token_ids: I32, kv: KVCache) -> _Chunk:
        """See `Trunk.begin`."""
        assert isinstance(kv, HostKVCache)
        tokens = len(token_ids)
        if not 1 <= tokens <= self._max_chunk:
            raise RequestError(f"chunk: expected 1 to {self._max_chunk} tokens at a time, got {tokens}")
        for dropped in (self._open.get(kv), self._long if tokens > 1 else None):
            self._drop(dropped)
        stops = kv.begin(tokens)
        at = self._frame(kv, tokens)
        self._embedding.gather(token_ids, at.resid[:tokens])
        for rotary, (cos, sin) in zip(self._rotary, at.angles, strict=True):
            cos[:tokens], sin[:tokens] = rotary.cos_sin(kv.length, tokens, kv.context)
        at.begin(kv, tokens, stops)
        chunk = self._open[kv] = _Chunk(tokens, kv, at)
        self._long = chunk if tokens > 1 else self._long
        return chunk

    def run_layer(self, chunk: TrunkChunk, layer_idx: int, expert_out: F32 | None) -> LayerOutput[F32] | None:
        """See `Trunk.run_layer`: one native call."""
        running = _running(chunk, layer_idx)
        running.next_layer = None  # a failed run leaves the chunk unusable
        self._native.run_layer(layer_idx, running.frame, expert_out)
        running.next_layer = layer_idx + 1
        return running.output if self._spec.layers[layer_idx].sparse else None

    def run_shared(self, chunk: TrunkChunk, layer_idx: int) -> F32 | None:
        """See `Trunk.run_shared`."""
        running = _running(chunk, layer_idx + 1)
        self._native.run_shared(layer_idx, running.frame)
        return None if self._spec.is_parallel(layer_idx) else running.at.y[: chunk.tokens]

    def head(self, chunk: TrunkChunk, expert_out: F32 | None, rows: slice) -> F32:
        """See `Trunk.head`."""
        running, found = _running(chunk, self._spec.num_layers), range(chunk.tokens)[rows]
        assert found.step == 1, "rows side by side"
        logits = np.empty((len(found), self._spec.vocab_size), np.float32)
        if len(found):
            self._native.head(running.frame, expert_out, found.start, logits)
        return logits

    def look_ahead(self, x: F32, layer_idx: int, depth: int) -> F32:
        """See `Trunk.look_ahead`: the layers' own routers."""
        coming = [layer for layer in self._spec.sparse_layers if layer > layer_idx][: max(0, depth)]
        out = np.empty((len(coming), len(x), self._spec.num_experts), np.float32)
        if coming:
            self._native.look_ahead(x, np.array(coming, np.int32), out)
        return out

    @property
    def expected_states(self) -> NativeTrunk:
        """See `Trunk.expected_states`."""
        return self

    def expected_state(self, chunk: TrunkChunk, layer_idx: int, expert_out: F32) -> F32:
        """See `ExpectedStates.expected_state`: only attention is left out."""
        return self._expected(_running(chunk, layer_idx + 1), self._sparse_after[layer_idx], expert_out)

    def first_state(self, chunk: TrunkChunk) -> F32:
        """See `ExpectedStates.first_state`."""
        return self._expected(_running(chunk, 0), self._spec.sparse_layers[0], None)

    def _expected(self, running: _Chunk, coming: int, expert_out: F32 | None) -> F32:
        assert running.next_layer is not None
        out = np.empty((running.tokens, self._spec.hidden), np.float32)
        self._native.expect(running.next_layer, coming, running.frame, expert_out, out)
        return out

    @property
    def chunk_cuts(self) -> NativeTrunk:
        """See `Trunk.chunk_cuts`: sums over a row do not depend on the rows beside it."""
        return self

    def keep(self, chunk: TrunkChunk, tokens: int) -> LayerOutput[F32]:
        """See `ChunkCuts.keep`: rows lie one behind the other, so those behind the last one kept are passed over."""
        assert isinstance(chunk, _Chunk)
        assert 1 <= tokens <= chunk.tokens
        chunk.frame.begin(tokens, chunk.kv.length)
        chunk.tokens, chunk.output = tokens, chunk.at.output(tokens)
        return chunk.output

    def token_compute(self, kernels: object) -> TokenCalls | None:
        """See `Trunk.token_compute`: with the backend's own kernels, not with some that stand before them."""
        if type(kernels) is not CpuKernels:
            return None
        if self._token_calls is None or self._token_calls.kernels is not kernels:
            self._token_calls = TokenCalls(self._native, kernels)
        return self._token_calls

    def set_routers(self, routers: object) -> None:
        """See `Trunk.set_routers`: those of the layers are here in any case."""

    def commit(self, chunk: TrunkChunk) -> None:
        """See `Trunk.commit`."""
        running = _running(chunk, self._spec.num_layers)
        running.kv.advance(chunk.tokens)
        self._drop(running)

    def release_scratch(self) -> None:
        """Give back what long chunks left behind; taken again when it is next written."""
        self._native.release_scratch()
        self._drop(self._long)
        self._of_many = None

    def close(self) -> None:
        """See `Trunk.close`."""
        self._open.clear()
        self._of_one.clear()
        self._long = self._of_many = None
        if self._token_calls is not None:
            self._token_calls.native.close()
        del self._native
        self._embedding.close()

    def _frame(self, kv: HostKVCache, tokens: int) -> ChunkFrame:
        """Return a chunk's frame: those of single tokens by cache, so that they can run side by side."""
        if tokens > 1:
            if self._of_many is None:
                self._of_many = ChunkFrame(self._spec, self._max_chunk)
            return self._of_many
        found = self._of_one.get(kv)
        if found is None:
            found = self._of_one[kv] = ChunkFrame(self._spec, 1)
        return found

    def _drop(self, chunk: _Chunk | None) -> None:
        if chunk is not None:
            chunk.next_layer = None
            self._open.pop(chunk.kv, None)
            self._long = None if self._long is chunk else self._long


def _running(chunk: TrunkChunk, next_layer: int) -> _Chunk:
    assert isinstance(chunk, _Chunk)
    chunk.require(next_layer)
    return chunk
