"""Experts on the GPU for a trunk on the host: what enters them is copied there, and what comes out copied back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_runtime.backends.cuda.driver import DeviceMemory, Stream
from edge_runtime.backends.cuda.experts import CudaExpertKernels
from edge_runtime.backends.cuda.tensors import DeviceTensor, Readback
from edge_runtime.backends.kernels import Resident
from edge_runtime.base.arrays import F32, I32, U64
from edge_runtime.base.spec import ModelSpec


class HostedKernels:
    """Implements `ExpertKernels`; tensors are float32 arrays. Calls return before experts are computed, but for `end`.

    Args:
        kernels: compute the experts; closed with this.
        stream: theirs.
        spec: the model.
        max_tokens: most tokens of a pass.
        release: gives back what long passes leave behind in the trunk.

    Raises:
        CudaMemoryError: there is no room for what is copied.
    """

    resident_router = None
    partial_sums = None

    def __init__(
        self,
        kernels: CudaExpertKernels,
        stream: Stream,
        spec: ModelSpec,
        max_tokens: int,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self._release_trunk = release
        self._kernels, self._stream, self._readback = kernels, stream, Readback(stream)
        self._x_bytes = 4 * max_tokens * spec.hidden
        self._x: DeviceMemory | None = None
        self._take()

    def begin(self, x: F32, ids: I32, weights: F32) -> None:
        """See `ExpertKernels.begin`."""
        self._kernels.begin(self._to_device(x), ids, weights)

    def run_experts(self, tier: int, segments: U64, experts: I32) -> None:
        """See `ExpertKernels.run_experts`."""
        self._kernels.run_experts(tier, segments, experts)

    def end(self) -> F32:
        """See `ExpertKernels.end`: waits for it."""
        return self._to_host(self._kernels.end())

    def run_resident(self, x: F32, ids: I32, weights: F32, resident: Resident) -> F32:
        """See `ExpertKernels.run_resident`: waits for it."""
        return self._to_host(self._kernels.run_resident(self._to_device(x), ids, weights, resident))

    def release_scratch(self) -> None:
        """See `ExpertKernels.release_scratch`."""
        self._kernels.release_scratch()
        self._readback.release()
        self._release_trunk()
        self._release()

    def close(self) -> None:
        """Give all memory back. Safe to call twice."""
        self._kernels.close()
        self._readback.close()
        self._release()

    def _to_device(self, x: F32) -> DeviceTensor:
        memory = self._take()
        memory.write(np.ascontiguousarray(x), self._stream)
        return DeviceTensor(memory.address, *x.shape)

    def _to_host(self, tensor: DeviceTensor) -> F32:
        return self._readback.fetch(tensor.address, tensor.rows, tensor.width)

    def _take(self) -> DeviceMemory:
        """Return what is copied to; taken again after it was released."""
        if self._x is None:
            self._x = DeviceMemory(self._stream.device, self._x_bytes)
        return self._x

    def _release(self) -> None:
        if self._x is not None:
            self._x.close()
            self._x = None
