"""Bindings of the graphs of layers and shared experts to arrays of our own: nothing is copied when they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from edge_runtime.backends.chunks import LayerOutput
from edge_runtime.backends.cpu.trunk.blocks import Blocks
from edge_runtime.backends.cpu.trunk.buffers import ChunkBuffers, ChunkViews, growing_arrays, rope_numbers
from edge_runtime.backends.cpu.trunk.kv_cache import HostKVCache
from edge_runtime.backends.cpu.trunk.recurrent import Stop
from edge_runtime.backends.cpu.trunk.supported import windows
from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import ModelSpec, has_mask

_MOST_KEPT = 4
"""Bindings kept of a cache's single tokens: fixed states alternate between slots."""


class BoundLayer(NamedTuple):
    """A layer's graph, bound.

    Attributes:
        runs: bindings, one after the other: a recurrent layer runs its chunk in parts.
        new: the chunk's part of the arrays that grow.
        output: what the layer hands to its experts; None without any.
    """

    runs: tuple[Any, ...]
    new: list[F32]
    output: LayerOutput[F32] | None


class BoundGraphs(NamedTuple):
    """Bindings of every graph for one cache, chunk length and bucket, and the arrays they point to."""

    tokens: int
    bucket: int
    views: ChunkViews
    masks: dict[int | None, F32]
    layers: list[BoundLayer]
    shared: dict[int, Any]


class Bindings:
    """Binds graphs to the arrays of a cache and a chunk, once for a chunk's length and a cache's bucket.

    Args:
        spec: the bundle's model.
        layers: the session of each layer's graph.
        shared: the sessions of the shared experts' graphs, by layer.
        max_chunk: most tokens of a chunk.
        bind: binds a session to arrays by the names of inputs and outputs; `OnnxRuntime.bind`.
    """

    def __init__(
        self, spec: ModelSpec, layers: list[Any], shared: dict[int, Any], max_chunk: int, bind: Callable[..., Any]
    ) -> None:
        self._spec, self._layers, self._shared, self._bind_graph = spec, layers, shared, bind
        self._buffers, self._blocks = ChunkBuffers(spec, max_chunk), Blocks(spec)
        self._ropes = rope_numbers(spec)
        self._bound: WeakKeyDictionary[HostKVCache, dict[tuple[int, ...], BoundGraphs]] = WeakKeyDictionary()

    def of(self, kv: HostKVCache, tokens: int, stops: list[Stop]) -> BoundGraphs:
        """Return the bindings of a cache, for fixed states handed over at `stops`.

        Some sets for single tokens and one for chunks are kept until a size changes.
        """
        kept = self._bound.setdefault(kv, {})
        slots = (kv.fixed.current, stops[-1].slot) if stops else ()
        key = (1, *slots) if tokens == 1 else (0,)
        bound = kept.get(key)
        if bound is None or (bound.tokens, bound.bucket) != (tokens, kv.bucket) or (stops and tokens > 1):
            if len(kept) > _MOST_KEPT:
                kept.clear()
            bound = kept[key] = self._bind(kv, tokens, stops)
        return bound

    def close(self) -> None:
        """Release sessions and bindings."""
        self._bound.clear()
        self._layers, self._shared = [], {}

    def _bind(self, kv: HostKVCache, tokens: int, stops: list[Stop]) -> BoundGraphs:
        # a single token has buffers of its own, so that sequences can be run side by side
        views = (ChunkBuffers(self._spec, 1) if tokens == 1 else self._buffers).views(tokens)
        masks = {w: np.empty((tokens, kv.bucket + tokens), np.float32) for w in windows(self._spec)}
        own = None if self._spec.router.norm_scale is None else views.router_x
        output = LayerOutput(views.x, views.router_logits, own)
        layers = []
        for i, layer in enumerate(self._spec.layers):
            inputs, outputs = self._whole_chunk(i, kv, views, masks)
            parts = self._blocks.parts(i, kv.fixed, tokens, stops)
            runs = tuple(
                self._bind_graph(self._layers[i], part.inputs(inputs), part.outputs(outputs)) for part in parts
            )
            layers.append(BoundLayer(runs, views.new[i], output if layer.sparse else None))
        shared = {
            i: self._bind_graph(s, self._shared_inputs(i, views), {"y": views.y[None]}) for i, s in self._shared.items()
        }
        return BoundGraphs(tokens, kv.bucket, views, masks, layers, shared)

    def _shared_inputs(self, i: int, views: ChunkViews) -> dict[str, F32]:
        """Inputs of a shared expert's graph."""
        if self._spec.is_parallel(i):
            return {"resid": views.resid[(i + 1) % 2][None]}
        return {"x": views.x[None]}

    def _whole_chunk(
        self, i: int, kv: HostKVCache, views: ChunkViews, masks: dict[int | None, F32]
    ) -> tuple[dict[str, F32], dict[str, F32]]:
        """Inputs and outputs of a layer's graph, without fixed states."""
        layer, names = self._spec.layers[i], [array.name for array in growing_arrays(self._spec, i)]
        inputs = {"resid": views.resid[i % 2][None], "moe": views.expert_out[None]}
        if self._spec.is_parallel(i - 1):
            inputs["parallel"] = views.y[None]
        outputs = {"resid_out": views.resid[(i + 1) % 2][None]}
        inputs |= {f"past_{name}": past for name, past in zip(names, kv.past(i), strict=True)}
        outputs |= {f"new_{name}": new for name, new in zip(names, views.new[i], strict=True)}
        rope = self._ropes[i]
        if rope is not None:
            inputs["cos"], inputs["sin"] = views.angles[rope]
        if has_mask(layer.attention):
            inputs["mask"] = masks[layer.window][None, None]
        if layer.sparse:
            outputs |= {"x": views.x[None], "router_logits": views.router_logits[None]}
            outputs |= {} if self._spec.router.norm_scale is None else {"router_x": views.router_x[None]}
        return inputs, outputs
