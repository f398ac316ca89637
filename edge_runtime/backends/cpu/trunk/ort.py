"""The trunk on ONNX Runtime's CPU provider: one session per graph, arrays owned by us, no copy of the cache.

The only module that imports onnxruntime, and only when a trunk is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cpu.trunk.buffers import ChunkBuffers, ChunkViews
from edge_runtime.backends.cpu.trunk.embedding import Embedding
from edge_runtime.backends.cpu.trunk.graph_check import check_graph
from edge_runtime.backends.cpu.trunk.kv_cache import HostKVCache
from edge_runtime.backends.cpu.trunk.mask import fill_mask
from edge_runtime.backends.cpu.trunk.memory import loaded_bytes
from edge_runtime.backends.cpu.trunk.rope import Rotary
from edge_runtime.backends.cpu.trunk.router_stack import RouterStack
from edge_runtime.backends.cpu.trunk.signature import (
    Signature,
    head_signature,
    layer_signature,
    routers_signature,
    shared_signature,
)
from edge_runtime.backends.cpu.trunk.supported import rope_of, windows
from edge_runtime.backends.trunk import KVCache, LayerOutput, TrunkChunk
from edge_runtime.base.errors import BundleError, DeviceError, RequestError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.manifest import EmbeddingDtype
from edge_runtime.bundle.part_names import EMBEDDING, trunk_file

F32 = NDArray[np.float32]
GraphKind = Literal["layer", "shared", "head", "routers"]


class _Bound(NamedTuple):
    """Bindings of every graph for one cache, chunk length and bucket, and the arrays they point to."""

    tokens: int
    bucket: int
    views: ChunkViews
    output: LayerOutput[F32]
    masks: dict[int | None, F32]
    layers: list[Any]
    shared: dict[int, Any]


class _Chunk(TrunkChunk):
    """A chunk in progress and the arrays it runs over."""

    def __init__(self, kv: HostKVCache, bound: _Bound) -> None:
        super().__init__(bound.tokens)
        self.kv, self.bound = kv, bound


class OrtTrunk:
    """`Trunk` over the graphs of a bundle; tensors are float32 arrays, views of buffers it owns."""

    def __init__(
        self,
        bundle_path: Path,
        spec: ModelSpec,
        *,
        threads: int,
        max_chunk: int,
        embedding: EmbeddingDtype = "bf16",
        routers: F32 | None = None,
    ) -> None:
        """Load every graph.

        Args:
            bundle_path: directory of a bundle whose parts were checked.
            spec: the bundle's model.
            threads: threads a graph may use, the caller's included.
            max_chunk: most tokens `begin` will be given at once.
            embedding: number type of the embedding table, from the manifest.
            routers: what `look_ahead` applies, see `load_routers`; kept. None: it is never called.

        Raises:
            DeviceError: ONNX Runtime is not installed.
            BundleError: it refuses a graph, or a graph does not have the inputs and outputs of the format.
        """
        self._spec = spec
        self._max_chunk = max_chunk
        self._runtime = _Runtime(bundle_path, threads)
        self._embedding = Embedding(bundle_path / EMBEDDING, spec.vocab_size, spec.hidden, embedding)
        load = self._runtime.load
        try:
            self._head = load(trunk_file("head"), head_signature(spec))
            self._layers = [load(trunk_file("layer", i), layer_signature(spec, i)) for i in range(spec.num_layers)]
            shared = [i for i, layer in enumerate(spec.layers) if layer.shared is not None]
            self._shared = {i: load(trunk_file("shared", i), shared_signature(spec)) for i in shared}
            self._routers: RouterStack | None = None
            self._own_bytes = self._runtime.weight_bytes
            self.set_routers(routers)
        except BaseException:
            self._embedding.close()
            raise
        self._rotary = Rotary(rope_of(spec), spec.max_context)
        self._buffers = ChunkBuffers(spec, max_chunk)
        self._bound: WeakKeyDictionary[HostKVCache, dict[bool, _Bound]] = WeakKeyDictionary()
        self._open: WeakKeyDictionary[HostKVCache, _Chunk] = WeakKeyDictionary()
        self._long: _Chunk | None = None  # the one chunk of several tokens: it has the large buffers

    @property
    def weight_bytes(self) -> int:
        """Bytes of memory the loaded graphs take, from the plan's formula."""
        return self._runtime.weight_bytes

    def new_kv_cache(self, context: int) -> HostKVCache:
        """Allocate keys and values for `context` tokens."""
        s = self._spec
        return HostKVCache(s.num_layers, s.attention.num_kv_heads, s.attention.head_dim, context)

    def begin(self, token_ids: NDArray[np.int32], kv: KVCache) -> TrunkChunk:
        """Start a chunk: embed int32 [T] tokens behind those in the cache. See `Trunk.begin`."""
        assert isinstance(kv, HostKVCache)
        tokens = len(token_ids)
        if not 1 <= tokens <= self._max_chunk:
            raise RequestError(f"chunk: expected 1 to {self._max_chunk} tokens at a time, got {tokens}")
        self._drop(self._open.get(kv))
        self._drop(self._long if tokens > 1 else None)
        kv.require(tokens)
        bound = self._bind(kv, tokens)
        views = bound.views
        self._embedding.gather(token_ids, views.resid[0])
        views.cos[:], views.sin[:] = self._rotary.cos_sin(kv.length, tokens)
        for window, mask in bound.masks.items():
            fill_mask(mask, kv.length, window)
        chunk = self._open[kv] = _Chunk(kv, bound)
        self._long = chunk if tokens > 1 else self._long
        return chunk

    def run_layer(self, chunk: TrunkChunk, layer_idx: int, expert_out: F32 | None) -> LayerOutput[F32] | None:
        """Run a layer over the chunk and keep its keys and values. See `Trunk.run_layer`."""
        running = _running(chunk, layer_idx)
        bound, views = running.bound, running.bound.views
        running.next_layer = None  # a failed run leaves the chunk unusable
        assert expert_out is None or expert_out.shape == views.expert_out.shape
        views.expert_out[:] = 0 if expert_out is None else expert_out
        self._runtime.run(self._layers[layer_idx], bound.layers[layer_idx], "layer", layer_idx)
        running.kv.write(layer_idx, views.new_k, views.new_v)
        running.next_layer = layer_idx + 1
        return bound.output if self._spec.layers[layer_idx].sparse else None

    def run_shared(self, chunk: TrunkChunk, layer_idx: int) -> F32:
        """Return the shared expert's output float32 [T, D] for the x of the last `run_layer`."""
        bound = _running(chunk, layer_idx + 1).bound
        self._runtime.run(self._shared[layer_idx], bound.shared[layer_idx], "shared", layer_idx)
        return bound.views.y

    def head(self, chunk: TrunkChunk, expert_out: F32 | None, rows: slice) -> F32:
        """Return logits float32 [rows, V] of the chunk's chosen rows, in a new array."""
        views = _running(chunk, self._spec.num_layers).bound.views
        assert expert_out is None or expert_out.shape == views.expert_out.shape
        views.expert_out[:] = 0 if expert_out is None else expert_out
        resid = np.ascontiguousarray(views.resid[self._spec.num_layers % 2][rows])
        combined = np.ascontiguousarray(views.expert_out[rows])
        logits = np.empty((len(resid), self._spec.vocab_size), np.float32)
        binding = self._head.io_binding()
        _bind(binding.bind_input, "resid", resid[None])
        _bind(binding.bind_input, "moe", combined[None])
        _bind(binding.bind_output, "logits", logits[None])
        self._runtime.run(self._head, binding, "head", 0)
        return logits

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
        session = runtime.load(trunk_file("routers"), routers_signature(self._spec))
        runtime.weight_bytes += routers.nbytes
        return RouterStack(
            session, lambda graph, binding: runtime.run(graph, binding, "routers", 0), _bind, routers,
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
        self._bound.clear()
        self._head, self._layers, self._shared, self._routers = None, [], {}, None
        self._embedding.close()

    def _drop(self, chunk: _Chunk | None) -> None:
        if chunk is not None:
            chunk.next_layer = None
            self._open.pop(chunk.kv, None)

    def _bind(self, kv: HostKVCache, tokens: int) -> _Bound:
        """Return the bindings of a cache. One set for single tokens and one for chunks is kept until a size changes."""
        kept = self._bound.setdefault(kv, {})
        bound = kept.get(tokens == 1)
        if bound is None or (bound.tokens, bound.bucket) != (tokens, kv.bucket):
            # a single token has buffers of its own, so that sequences can be run side by side
            views = (ChunkBuffers(self._spec, 1) if tokens == 1 else self._buffers).views(tokens)
            masks = {w: np.empty((tokens, kv.bucket + tokens), np.float32) for w in windows(self._spec)}
            output = LayerOutput(views.x, views.router_logits)
            layers = [self._bind_layer(i, kv, views, masks) for i in range(len(self._layers))]
            shared = {i: _bind_shared(session, views) for i, session in self._shared.items()}
            bound = kept[tokens == 1] = _Bound(tokens, kv.bucket, views, output, masks, layers, shared)
        return bound

    def _bind_layer(self, i: int, kv: HostKVCache, views: ChunkViews, masks: dict[int | None, F32]) -> Any:
        binding = self._layers[i].io_binding()
        layer = self._spec.layers[i]
        past_k, past_v = kv.past(i)
        inputs = {
            "resid": views.resid[i % 2][None], "moe": views.expert_out[None], "past_k": past_k, "past_v": past_v,
            "cos": views.cos, "sin": views.sin, "mask": masks[layer.window][None, None],
        }  # fmt: skip
        outputs = {"resid_out": views.resid[(i + 1) % 2][None], "new_k": views.new_k, "new_v": views.new_v}
        if layer.sparse:
            outputs |= {"x": views.x[None], "router_logits": views.router_logits[None]}
        for name, array in inputs.items():
            _bind(binding.bind_input, name, array)
        for name, array in outputs.items():
            _bind(binding.bind_output, name, array)
        return binding


class _Runtime:
    """ONNX Runtime, its options and its errors."""

    def __init__(self, bundle_path: Path, threads: int) -> None:
        # unless told so before the import, it reports to its vendor and writes a device id under the home folder
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as state
        except ImportError as err:
            raise _not_installed(err) from err
        self._ort = onnxruntime
        found = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
        self._errors: tuple[type[Exception], ...] = (*found, RuntimeError, ValueError)
        self._bundle_path = bundle_path
        self._options = self._make_options(threads)
        self.weight_bytes = 0

    def _make_options(self, threads: int) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # an arena keeps the largest prefill's scratch for ever, once per session
        options.log_severity_level = 3
        # between the products of one graph a thread is needed again at once, and waking it costs as much as a product;
        # between graphs the cores belong to the experts
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        if 1 < threads <= len(processors):
            # a thread that wakes up on the caller's processor spins there instead of the caller; numbers start at 1
            own = ";".join(str(processor + 1) for processor in processors[1:threads])
            options.add_session_config_entry("session.intra_op_thread_affinities", own)
        return options

    def load(self, part: str, signature: Signature) -> Any:
        """Create the session of a graph and let go of its files' pages."""
        path = self._bundle_path / part
        try:
            data = path.with_suffix(".data")
            check_graph(part, path.read_bytes(), data.stat().st_size if data.exists() else 0, signature)
        except OSError as err:
            raise BundleError(f"{part}: cannot be opened: {err.strerror}. Export the bundle again.") from err
        try:
            session = self._ort.InferenceSession(str(path), self._options, providers=["CPUExecutionProvider"])
        except self._errors as err:
            raise BundleError(
                f"{part}: ONNX Runtime {self._ort.__version__} refuses the graph: {_first_line(err)}. "
                "Export the bundle again, or install the ONNX Runtime version this package asks for."
            ) from err
        files = [file for file in (path, data) if file.exists()]
        graph_bytes, *data_bytes = (file.stat().st_size for file in files)
        self.weight_bytes += loaded_bytes(sum(data_bytes), graph_bytes, 1)
        for file in files:
            _drop_cached_pages(file)
        return session

    def run(self, session: Any, binding: Any, kind: GraphKind, layer_idx: int) -> None:
        """Run a graph over bound arrays."""
        try:
            session.run_with_iobinding(binding)
        except self._errors as err:
            raise DeviceError(f"{trunk_file(kind, layer_idx)}: ONNX Runtime failed: {_first_line(err)}") from err


def _running(chunk: TrunkChunk, next_layer: int) -> _Chunk:
    assert isinstance(chunk, _Chunk)
    chunk.require(next_layer)
    return chunk


def _bind_shared(session: Any, views: ChunkViews) -> Any:
    binding = session.io_binding()
    _bind(binding.bind_input, "x", views.x[None])
    _bind(binding.bind_output, "y", views.y[None])
    return binding


def _bind(bind: Callable[..., None], name: str, array: F32) -> None:
    """Bind a contiguous float32 array by address; whoever calls keeps it alive."""
    assert array.flags.c_contiguous
    bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)


def library() -> str:
    """Return name and version of what computes the graphs.

    Raises:
        DeviceError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as err:
        raise _not_installed(err) from err
    return f"onnxruntime-{onnxruntime.__version__}"


def _not_installed(err: ImportError) -> DeviceError:
    return DeviceError(f"trunk: ONNX Runtime cannot be imported: {err}. Install it: pip install onnxruntime")


def _first_line(err: Exception) -> str:
    return (str(err).splitlines() or [type(err).__name__])[0][:300]


def _drop_cached_pages(path: Path) -> None:
    """Tell the system that a file's cached pages are not needed again: its content is now in our memory."""
    if not hasattr(os, "posix_fadvise"):
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
