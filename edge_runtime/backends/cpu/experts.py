"""The CPU's expert kernels as a backend has them: with the buffer their result is in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_runtime.backends.cpu import kernels as native
from edge_runtime.backends.kernels import Resident
from edge_runtime.base.arrays import F32, I32, U64
from edge_runtime.base.spec import ModelSpec
from edge_runtime.telemetry.process import trim_heap


class CpuKernels:
    """Native kernels for one model. Implements `ExpertKernels`; tensors are float32 arrays.

    Args:
        spec: the model.
        max_tokens: most tokens of a pass.
        team: the threads that compute, or the number of its own, the caller's included.
        release: gives back what else long passes leave behind.
    """

    resident_router = None

    def __init__(
        self, spec: ModelSpec, max_tokens: int, team: native.Team | int, release: Callable[[], None] = lambda: None
    ) -> None:
        self.native, self._release = native.make_kernels(spec, max_tokens, team), release
        self._num_experts = spec.num_experts
        self._out = np.zeros((max_tokens, spec.hidden), np.float32)
        self._tokens = 0

    @property
    def out_of_one(self) -> F32:
        """Where the result for a single token is, [1, D]; the same in every call."""
        return self._out[:1]

    def begin(self, x: F32, ids: I32, weights: F32) -> None:
        """See `ExpertKernels.begin`."""
        self._tokens = len(x)
        self.native.begin(x, ids, weights, self._num_experts)

    def run_experts(self, tier: int, segments: U64, experts: I32) -> None:
        """See `ExpertKernels.run_experts`."""
        self.native.run_experts(tier, segments, experts)

    @property
    def partial_sums(self) -> CpuKernels:
        """See `ExpertKernels.partial_sums`."""
        return self

    def so_far(self) -> F32:
        """See `PartialSums.so_far`: where the sum of all comes later."""
        out = self._out[: self._tokens]
        self.native.so_far(out)
        return out

    def end(self) -> F32:
        """See `ExpertKernels.end`."""
        out = self._out[: self._tokens]
        self.native.end(out)
        return out

    def run_resident(self, x: F32, ids: I32, weights: F32, resident: Resident) -> F32:
        """See `ExpertKernels.run_resident`: one native call."""
        out = self._out[: len(x)]
        self.native.run_resident(x, ids, weights, *resident, out)
        return out

    def release_scratch(self) -> None:
        """See `ExpertKernels.release_scratch`; what was freed otherwise goes back too."""
        self.native.release_scratch()
        self._release()
        trim_heap()


def scratch_bytes(spec: ModelSpec, max_tokens: int) -> int:
    """Return what kernels for passes of so many tokens allocate, the buffer of their result included."""
    result = max_tokens * spec.hidden * np.dtype(np.float32).itemsize
    inside = native.ExpertKernels.scratch_bytes_for(spec.hidden, spec.experts.intermediate, spec.top_k, max_tokens)
    return inside + result
