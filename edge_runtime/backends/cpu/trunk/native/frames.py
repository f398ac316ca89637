"""A chunk's arrays, owned by the kernels, and views of them."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import ReferenceType, ref

import numpy as np

from edge_runtime.backends.chunks import LayerOutput
from edge_runtime.backends.cpu.kernels import Frame
from edge_runtime.backends.cpu.trunk.kv_cache import HostKVCache
from edge_runtime.backends.cpu.trunk.native.memory import angles
from edge_runtime.backends.cpu.trunk.recurrent import Stop
from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import ModelSpec


class ChunkFrame:
    """Arrays for chunks of up to `most` tokens.

    Args:
        spec: the model.
        most: tokens.

    Attributes:
        frame: as the kernels have it.
        resid: float32 [most, D], the residual stream.
        y: the same, output of a shared expert.
        angles: cos and sin [most, R/2] of each distinct rope.
    """

    def __init__(self, spec: ModelSpec, most: int) -> None:
        self._has_own = spec.router.norm_scale is not None
        self._num_layers = spec.num_layers
        self.frame = frame = Frame(most, spec.hidden, spec.num_experts, self._has_own, angles(spec))
        self.resid, self.y, self.angles = frame.resid(), frame.y(), frame.angles()
        self._x, self._router_logits, self._router_x = frame.x(), frame.router_logits(), frame.router_x()
        self._cache: ReferenceType[HostKVCache] | None = None
        self._bucket = 0
        self._output = self._views(1)

    def begin(self, kv: HostKVCache, tokens: int, stops: Sequence[Stop]) -> None:
        """Start a chunk of `tokens` behind those in a cache that has room for them; `stops` as it said."""
        if self._bucket != kv.bucket or self._cache is None or self._cache() is not kv:
            pairs = [([array.ctypes.data for array in kv.past(i)] + [0, 0])[:2] for i in range(self._num_layers)]
            self.frame.set_caches(np.array(pairs, np.uint64), kv.bucket)
            if stops:
                self.frame.set_states(*kv.fixed.layout())
            self._cache, self._bucket = ref(kv), kv.bucket
        if stops:
            self.frame.set_stops(kv.fixed.current, stops)
        self.frame.begin(tokens, kv.length)

    def output(self, tokens: int) -> LayerOutput[F32]:
        """Return what a layer of a chunk of `tokens` hands to its experts."""
        return self._output if tokens == 1 else self._views(tokens)

    def _views(self, tokens: int) -> LayerOutput[F32]:
        own = self._router_x[:tokens] if self._has_own else None
        return LayerOutput(self._x[:tokens], self._router_logits[:tokens], own)
