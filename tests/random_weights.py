"""Random weights of a trunk, for tests that need no family."""

from __future__ import annotations

import numpy as np

from edge_runtime.backends.cpu.trunk.weights import layer_weight_shapes, top_weight_shapes
from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import ModelSpec


class RandomWeights:
    """Weights from a seed, of the trunk of any model; the embedding is exact in bfloat16."""

    def __init__(self, spec: ModelSpec) -> None:
        rng = np.random.default_rng(5)
        shapes = top_weight_shapes(spec)
        for i in range(spec.num_layers):
            shapes |= layer_weight_shapes(spec, i)
        self._arrays = {
            n: rng.standard_normal(s, dtype=np.float32) / np.float32(s[-1] ** 0.5) for n, s in shapes.items()
        }
        self._arrays["embed"].view(np.uint32)[:] &= 0xFFFF0000

    def get(self, name: str) -> F32:
        return self._arrays[name]

    def rows(self, name: str, start: int, stop: int) -> F32:
        return self._arrays[name][start:stop]
