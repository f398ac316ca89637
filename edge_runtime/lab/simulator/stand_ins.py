"""Stand-ins for what a replay leaves out: a trunk that says what was recorded, kernels that compute nothing."""

from __future__ import annotations

from math import log

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cpu.trunk.kv_cache import KVCache
from edge_runtime.backends.trunk import F32, LayerOutput, TrunkChunk
from edge_runtime.base.spec import ModelSpec
from edge_runtime.lab.simulator.trace import TracePass

I32 = NDArray[np.int32]


class TraceTrunk:
    """Implements `Trunk` from one recorded pass at a time.

    Its logits are made up so that their largest probability is the recorded one: all that a policy may look at.

    Args:
        spec: the model.
    """

    weight_bytes = 0

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._place = {layer: i for i, layer in enumerate(spec.sparse_layers)}
        self._pass: TracePass | None = None
        self._x = np.zeros((0, spec.hidden), np.float32)

    def load(self, one: TracePass) -> None:
        """Take the pass that the next `begin` is about."""
        self._pass = one
        if len(self._x) < len(one.token_ids):
            self._x = np.zeros((len(one.token_ids), self._spec.hidden), np.float32)

    def new_kv_cache(self, context: int) -> KVCache:
        """Return a cache that counts tokens and holds nothing worth its name."""
        return KVCache(1, 1, 1, context)

    def begin(self, token_ids: NDArray[np.int32], kv: KVCache) -> TrunkChunk:
        """See `Trunk.begin`."""
        kv.require(len(token_ids))
        return TrunkChunk(kv, len(token_ids))

    def run_layer(self, chunk: TrunkChunk, layer_idx: int, expert_out: F32 | None) -> LayerOutput:
        """See `Trunk.run_layer`."""
        if not self._spec.layers[layer_idx].sparse:
            return LayerOutput(None, None)
        one = self._recorded()
        return LayerOutput(self._x[: len(one.token_ids)], one.logits[self._place[layer_idx]])

    def run_shared(self, chunk: TrunkChunk, layer_idx: int) -> F32:
        """See `Trunk.run_shared`."""
        return self._x[: len(self._recorded().token_ids)]

    def head(self, chunk: TrunkChunk, expert_out: F32 | None, rows: slice) -> F32:
        """See `Trunk.head`."""
        confidence: list[float] = self._recorded().confidence[rows].tolist()
        logits, others = np.zeros((len(confidence), self._spec.vocab_size), np.float32), self._spec.vocab_size - 1
        for row, recorded in enumerate(confidence):
            known = min(max(1.0 if recorded != recorded else recorded, 1e-9), 1 - 1e-9)
            logits[row, 0] = log(known * max(others, 1) / (1 - known))
        return logits

    def look_ahead(self, x: F32, layer_idx: int, depth: int) -> F32:
        """See `Trunk.look_ahead`: a replay repeats what was predicted, it predicts nothing."""
        return np.empty((0, 1, self._spec.num_experts), np.float32)

    def commit(self, chunk: TrunkChunk) -> None:
        """See `Trunk.commit`."""
        chunk.kv.advance(chunk.tokens)

    def close(self) -> None:
        """Nothing to release."""

    def _recorded(self) -> TracePass:
        assert self._pass is not None, "no pass was loaded"
        return self._pass


class NullKernels:
    """Experts that add nothing."""

    def begin(self, x: F32, ids: I32, weights: F32, num_experts: int) -> None:
        """Ignore the input."""

    def run_experts(self, tier: int, segments: NDArray[np.uint64], experts: I32) -> None:
        """Compute nothing."""

    def end(self, out: F32) -> None:
        """Leave `out` as it is."""

    def run_resident(
        self, x: F32, ids: I32, weights: F32, tier: int, addresses: NDArray[np.uint64], slots: I32, out: F32
    ) -> None:
        """Compute nothing."""
