"""What computes layers and head of a trunk on the GPU: our kernels here, TensorRT's engines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from edge_runtime.backends.cuda.driver import Module, Stream
from edge_runtime.backends.cuda.trunk.buffers import TokenBuffers
from edge_runtime.backends.cuda.trunk.kv_cache import CudaKVCache
from edge_runtime.backends.cuda.trunk.launches import TrunkLaunches
from edge_runtime.backends.cuda.trunk.layers import Arrival, LayerRunner
from edge_runtime.backends.cuda.trunk.weights import DeviceWeights
from edge_runtime.backends.cuda.trunk.widths import widths_of
from edge_runtime.base.arrays import F32
from edge_runtime.bundle.bundle import Bundle


class TrunkParts(Protocol):
    """Computes layers over a chunk's buffers. Everything is queued on one stream; nothing waits."""

    cache_item_bytes: int
    """Of a number in a cache; known once `prepare` was asked."""
    reads_whole_caches: bool
    """Slots of a cache behind its tokens are read, and masked."""

    @property
    def nbytes(self) -> int:
        """What the weights take."""
        ...

    @property
    def build(self) -> str:
        """See `Trunk.build`."""
        ...

    def prepare(self, context: int) -> None:
        """Get ready for caches of so many tokens.

        Raises:
            DeviceError: it cannot be done.
        """
        ...

    def widths(self, tokens: int) -> Mapping[str, int]:
        """Return the float32 numbers a token of a chunk of at most so many has in each buffer, by name."""
        ...

    def begin(self, at: TokenBuffers, kv: CudaKVCache, tokens: int) -> None:
        """Fill what a chunk needs besides its tokens, their position and angles."""
        ...

    def run_layer(self, layer_idx: int, at: TokenBuffers, kv: CudaKVCache, tokens: int, expert_out: int) -> None:
        """Run a layer; a sparse one leaves `x` and `router_logits`.

        Args:
            layer_idx: the layer.
            at: the chunk's buffers.
            kv: its cache.
            tokens: of the chunk.
            expert_out: address of the experts' output of the layer before, or 0.
        """
        ...

    def run_shared(self, layer_idx: int, at: TokenBuffers, tokens: int) -> None:
        """Compute a shared expert's output in `y`, from `x`."""
        ...

    def head(self, at: TokenBuffers, rows: tuple[int, int], expert_out: int, out: int) -> None:
        """Compute logits.

        Args:
            at: the chunk's buffers.
            rows: the first one and how many.
            expert_out: address of the experts' output of the last layer, all rows, or 0.
            out: where float32 [rows, V] goes.
        """
        ...

    def finish(self, logits: F32) -> F32:
        """Return logits with what the head leaves to the host."""
        ...

    def close(self) -> None:
        """Give all memory back. Safe to call twice."""
        ...


class KernelParts:
    """Implements `TrunkParts` by our kernels.

    Args:
        bundle: an open bundle whose parts were checked; `supported.why_not` has nothing against it.
        module: the kernels.
        stream: orders all work.

    Raises:
        BundleError: a graph is not of the exporter's kind.
        CudaMemoryError: the weights do not fit.
    """

    cache_item_bytes, reads_whole_caches, build = 4, False, ""

    def __init__(self, bundle: Bundle, module: Module, stream: Stream) -> None:
        spec = self._spec = bundle.manifest.model
        self._weights = DeviceWeights(bundle, stream)
        self._launches = TrunkLaunches(module, stream)
        self._layers = LayerRunner(spec, self._launches)

    @property
    def nbytes(self) -> int:
        """See `TrunkParts.nbytes`."""
        return self._weights.nbytes

    def prepare(self, context: int) -> None:
        """See `TrunkParts.prepare`: kernels take any."""

    def widths(self, tokens: int) -> Mapping[str, int]:
        """See `TrunkParts.widths`."""
        return widths_of(self._spec)

    def begin(self, at: TokenBuffers, kv: CudaKVCache, tokens: int) -> None:
        """See `TrunkParts.begin`: nothing else."""

    def run_layer(self, layer_idx: int, at: TokenBuffers, kv: CudaKVCache, tokens: int, expert_out: int) -> None:
        """See `TrunkParts.run_layer`."""
        self._layers.run(layer_idx, self._weights.layers[layer_idx], at, kv, tokens, expert_out)

    def run_shared(self, layer_idx: int, at: TokenBuffers, tokens: int) -> None:
        """See `TrunkParts.run_shared`."""
        self._layers.run_shared(layer_idx, self._weights.shared[layer_idx], at, tokens)

    def head(self, at: TokenBuffers, rows: tuple[int, int], expert_out: int, out: int) -> None:
        """See `TrunkParts.head`."""
        (first, count), spec, head = rows, self._spec, self._weights.head
        more = self._layers.arrive(head.before, at, Arrival(first, count, expert_out))
        resid, normed = at.at("resid") + 4 * first * spec.hidden, at.at("normed")
        self._launches.add_norm(resid, more, head.norm, normed, (count, spec.hidden), spec.rms_eps)
        self._launches.linear(normed, head.matrix, out, count)

    def finish(self, logits: F32) -> F32:
        """See `TrunkParts.finish`: the scale and the cap."""
        if self._spec.logit_scale != 1:
            logits = logits * np.float32(self._spec.logit_scale)
        cap = self._spec.logit_softcap
        return logits if cap is None else np.float32(cap) * np.tanh(logits / np.float32(cap))

    def close(self) -> None:
        """See `TrunkParts.close`."""
        self._weights.close()
