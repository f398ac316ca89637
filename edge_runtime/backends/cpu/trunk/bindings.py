"""Bindings of the graphs of layers and shared experts to arrays of our own: nothing is copied when they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cpu.trunk.buffers import ChunkBuffers, ChunkViews
from edge_runtime.backends.cpu.trunk.kv_cache import HostKVCache
from edge_runtime.backends.cpu.trunk.supported import windows
from edge_runtime.backends.trunk import LayerOutput
from edge_runtime.base.spec import ModelSpec

F32 = NDArray[np.float32]


class BoundGraphs(NamedTuple):
    """Bindings of every graph for one cache, chunk length and bucket, and the arrays they point to."""

    tokens: int
    bucket: int
    views: ChunkViews
    output: LayerOutput[F32]
    masks: dict[int | None, F32]
    layers: list[Any]
    shared: dict[int, Any]


class Bindings:
    """Binds graphs to the arrays of a cache and a chunk, once for a chunk's length and a cache's bucket.

    Args:
        spec: the bundle's model.
        layers: the session of each layer's graph.
        shared: the sessions of the shared experts' graphs, by layer.
        max_chunk: most tokens of a chunk.
    """

    def __init__(self, spec: ModelSpec, layers: list[Any], shared: dict[int, Any], max_chunk: int) -> None:
        self._spec, self._layers, self._shared = spec, layers, shared
        self._buffers = ChunkBuffers(spec, max_chunk)
        self._bound: WeakKeyDictionary[HostKVCache, dict[bool, BoundGraphs]] = WeakKeyDictionary()

    def of(self, kv: HostKVCache, tokens: int) -> BoundGraphs:
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
            bound = kept[tokens == 1] = BoundGraphs(tokens, kv.bucket, views, output, masks, layers, shared)
        return bound

    def close(self) -> None:
        """Release sessions and bindings."""
        self._bound.clear()
        self._layers, self._shared = [], {}

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
            bind_array(binding.bind_input, name, array)
        for name, array in outputs.items():
            bind_array(binding.bind_output, name, array)
        return binding


def _bind_shared(session: Any, views: ChunkViews) -> Any:
    binding = session.io_binding()
    bind_array(binding.bind_input, "x", views.x[None])
    bind_array(binding.bind_output, "y", views.y[None])
    return binding


def bind_array(bind: Callable[..., None], name: str, array: F32) -> None:
    """Bind a contiguous float32 array by address; whoever calls keeps it alive."""
    assert array.flags.c_contiguous
    bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
