"""The trunk on ONNX Runtime: one session per graph, arrays owned by us; its CPU provider makes no copy of the cache."""

from __future__ import annotations

from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from edge_runtime.backends.chunks import LayerOutput, TrunkChunk
from edge_runtime.backends.cpu.trunk.bindings import Bindings, BoundGraphs
from edge_runtime.backends.cpu.trunk.embedding import Embedding
from edge_runtime.backends.cpu.trunk.kv_cache import HostKVCache
from edge_runtime.backends.cpu.trunk.mask import fill_mask
from edge_runtime.backends.cpu.trunk.onnx_runtime import OnnxRuntime, bind_array
from edge_runtime.backends.cpu.trunk.rope import Rotary
from edge_runtime.backends.cpu.trunk.router_stack import RouterStack
from edge_runtime.backends.cpu.trunk.signature import (
    head_signature,
    layer_signature,
    routers_signature,
    shared_signature,
)
from edge_runtime.backends.trunk import KVCache
from edge_runtime.base.arrays import F32, I32
from edge_runtime.base.errors import RequestError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.manifest import EmbeddingDtype
from edge_runtime.bundle.part_names import EMBEDDING, trunk_file


class _Chunk(TrunkChunk):
    """A chunk in progress and the arrays it runs over."""

    def __init__(self, kv: HostKVCache, bound: BoundGraphs) -> None:
        super().__init__(bound.tokens)
        self.kv, self.bound = kv, bound


class OrtTrunk:
    """`Trunk` over the graphs of a bundle; tensors are float32 arrays, views of buffers it owns."""

    expected_states = chunk_cuts = None
    build = ""

    def __init__(
        self,
        bundle_path: Path,
        spec: ModelSpec,
        *,
        threads: int,
        max_chunk: int,
        embedding: EmbeddingDtype = "bf16",
        routers: F32 | None = None,
        runtime: OnnxRuntime | None = None,
    ) -> None:
        """Load every graph.

        Args:
            bundle_path: directory of a bundle whose parts were checked.
            spec: the bundle's model.
            threads: threads a graph may use, the caller's included.
            max_chunk: most tokens `begin` will be given at once.
            embedding: number type of the embedding table, from the manifest.
            routers: what `look_ahead` applies, see `load_routers`; kept. None: it is never called.
            runtime: loads and runs the graphs; on the CPU if left out.

        Raises:
            DeviceError: ONNX Runtime is not installed.
            BundleError: it refuses a graph, or a graph does not have the inputs and outputs of the format.
        """
        self._spec = spec
        self._max_chunk = max_chunk
        self._runtime = runtime or OnnxRuntime(bundle_path, threads)
        table = bundle_path / EMBEDDING
        self._embedding = Embedding(table, spec.vocab_size, spec.hidden, embedding, spec.embedding_scale)
        load = self._runtime.load
        try:
            self._head = load(trunk_file("head"), head_signature(spec))
            self._layers = [load(trunk_file("layer", i), layer_signature(spec, i)) for i in range(spec.num_layers)]
            shared = [i for i, layer in enumerate(spec.layers) if layer.shared is not None]
            self._shared = {i: load(trunk_file("shared", i), shared_signature(spec, i)) for i in shared}
            self._routers: RouterStack | None = None
            self._own_bytes = self._runtime.weight_bytes
            self.set_routers(routers)
        except BaseException:
            self._embedding.close()
            raise
        self._rotary = [Rotary(rope, spec.max_context) for rope in spec.ropes]
        self._bindings = Bindings(spec, self._layers, self._shared, max_chunk, self._runtime.bind)
        self._open: WeakKeyDictionary[HostKVCache, _Chunk] = WeakKeyDictionary()
        self._long: _Chunk | None = None  # the one chunk of several tokens: it has the large buffers

    @property
    def weight_bytes(self) -> int:
        """Bytes of memory the loaded graphs take, from the plan's formula."""
        return self._runtime.weight_bytes

    def new_kv_cache(self, context: int) -> HostKVCache:
        """Allocate what layers keep of `context` tokens."""
        return HostKVCache.of(self._spec, context)

    def begin(self, token_ids: I32, kv: KVCache) -> TrunkChunk:
        """Start a chunk: embed int32 [T] tokens behind those in the cache. See `Trunk.begin`."""
        assert isinstance(kv, HostKVCache)
        tokens = len(token_ids)
        if not 1 <= tokens <= self._max_chunk:
            raise RequestError(f"chunk: expected 1 to {self._max_chunk} tokens at a time, got {tokens}")
        self._drop(self._open.get(kv))
        self._drop(self._long if tokens > 1 else None)
        bound = self._bindings.of(kv, tokens, kv.begin(tokens))
        views = bound.views
        self._embedding.gather(token_ids, views.resid[0])
        for rotary, (cos, sin) in zip(self._rotary, views.angles, strict=True):
            cos[:], sin[:] = rotary.cos_sin(kv.length, tokens, kv.context)
        for window, mask in bound.masks.items():
            fill_mask(mask, kv.length, window)
        chunk = self._open[kv] = _Chunk(kv, bound)
        self._long = chunk if tokens > 1 else self._long
        return chunk

    def run_layer(self, chunk: TrunkChunk, layer_idx: int, expert_out: F32 | None) -> LayerOutput[F32] | None:
        """Run a layer over the chunk and keep its keys and values. See `Trunk.run_layer`."""
        running = _running(chunk, layer_idx)
        layer, expert_in = running.bound.layers[layer_idx], running.bound.views.expert_out
        running.next_layer = None  # a failed run leaves the chunk unusable
        assert expert_out is None or expert_out.shape == expert_in.shape
        expert_in[:] = 0 if expert_out is None else expert_out
        for run in layer.runs:
            self._runtime.run(self._layers[layer_idx], run, "layer", layer_idx)
        running.kv.write(layer_idx, layer.new)
        running.next_layer = layer_idx + 1
        return layer.output

    def run_shared(self, chunk: TrunkChunk, layer_idx: int) -> F32 | None:
        """Run the shared expert, or the network in parallel, of the last `run_layer`. See `Trunk.run_shared`."""
        bound = _running(chunk, layer_idx + 1).bound
        self._runtime.run(self._shared[layer_idx], bound.shared[layer_idx], "shared", layer_idx)
        return None if self._spec.is_parallel(layer_idx) else bound.views.y

    def head(self, chunk: TrunkChunk, expert_out: F32 | None, rows: slice) -> F32:
        """Return logits float32 [rows, V] of the chunk's chosen rows, in a new array."""
        views = _running(chunk, self._spec.num_layers).bound.views
        assert expert_out is None or expert_out.shape == views.expert_out.shape
        views.expert_out[:] = 0 if expert_out is None else expert_out
        inputs = {"resid": views.resid[self._spec.num_layers % 2], "moe": views.expert_out}
        if self._spec.is_parallel(self._spec.num_layers - 1):
            inputs["parallel"] = views.y
        inputs = {name: np.ascontiguousarray(array[rows])[None] for name, array in inputs.items()}
        logits = np.empty((inputs["resid"].shape[1], self._spec.vocab_size), np.float32)
        self._runtime.run(self._head, self._runtime.bind(self._head, inputs, {"logits": logits[None]}), "head", 0)
        return logits

    def token_compute(self, kernels: object) -> None:
        """See `Trunk.token_compute`: Python calls it."""

    def look_ahead(self, x: F32, layer_idx: int, depth: int) -> F32:
        """Apply the routers of the next sparse layers to float32 [T, D]. See `Trunk.look_ahead`."""
        assert self._routers is not None, "the trunk was not asked to look ahead"
        return self._routers.apply(x, layer_idx, depth)

    def set_routers(self, routers: F32 | None) -> None:
        """Take what `look_ahead` applies, see `load_routers`, or forget it; between passes."""
        self._routers, self._runtime.weight_bytes = None, self._own_bytes
        if routers is not None:
            self._routers = self._make_router_stack(routers)

    def _make_router_stack(self, routers: F32) -> RouterStack:
        runtime = self._runtime
        session = runtime.load(trunk_file("routers"), routers_signature(self._spec), on_host=True)
        runtime.weight_bytes += routers.nbytes
        return RouterStack(
            session, lambda graph, binding: runtime.run(graph, binding, "routers", 0), bind_array, routers,
            self._spec.sparse_layers,
        )  # fmt: skip

    def commit(self, chunk: TrunkChunk) -> None:
        """Make the chunk's keys and values part of the cache."""
        running = _running(chunk, self._spec.num_layers)
        running.kv.advance(chunk.tokens)
        chunk.next_layer = None
        self._open.pop(running.kv, None)
        if self._long is chunk:
            self._long = None

    def close(self) -> None:
        """Release sessions and buffers."""
        self._long = None
        self._open.clear()
        self._bindings.close()
        self._head, self._layers, self._shared, self._routers = None, [], {}, None
        self._embedding.close()

    def _drop(self, chunk: _Chunk | None) -> None:
        if chunk is not None:
            chunk.next_layer = None
            self._open.pop(chunk.kv, None)


def _running(chunk: TrunkChunk, next_layer: int) -> _Chunk:
    assert isinstance(chunk, _Chunk)
    chunk.require(next_layer)
    return chunk
