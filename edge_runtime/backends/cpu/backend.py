"""The CPU backend: native expert kernels and a trunk on ONNX Runtime. Everything is done when a call returns."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.base import BackendOptions
from edge_runtime.backends.cpu import experts, kernels
from edge_runtime.backends.cpu.experts import CpuKernels
from edge_runtime.backends.cpu.space import HostSpace
from edge_runtime.backends.cpu.tensors import HostTensors
from edge_runtime.backends.cpu.trunk import memory
from edge_runtime.backends.cpu.trunk.kv_cache import HostKVCache
from edge_runtime.backends.cpu.trunk.onnx_runtime import library
from edge_runtime.backends.cpu.trunk.ort import OrtTrunk
from edge_runtime.backends.cpu.trunk.router_stack import load_routers, require_routers, routers_bytes
from edge_runtime.backends.cpu.trunk.supported import require_supported
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.telemetry.spans import HostClock


class CpuFormulas:
    """Implements `MemoryFormulas`."""

    def library_bytes(self) -> int:
        """See `MemoryFormulas.library_bytes`."""
        return 0 if "onnxruntime" in sys.modules else memory.LIBRARY_BYTES

    def trunk_bytes(self, manifest: Manifest) -> int:
        """See `MemoryFormulas.trunk_bytes`."""
        return memory.plan_trunk_bytes(manifest)

    def look_ahead_bytes(self, spec: ModelSpec) -> int:
        """See `MemoryFormulas.look_ahead_bytes`."""
        return routers_bytes(spec)

    def kv_bytes(self, spec: ModelSpec, tokens: int) -> int:
        """See `MemoryFormulas.kv_bytes`."""
        return HostKVCache.bytes_for(spec, tokens)

    def scratch_bytes(self, spec: ModelSpec, chunk: int, context: int, parallel: int) -> int:
        """See `MemoryFormulas.scratch_bytes`."""
        return experts.scratch_bytes(spec, chunk + parallel - 1) + memory.scratch_bytes(spec, chunk, context)

    def landing_bytes(self, record_bytes: int, reads: int) -> int:
        """See `MemoryFormulas.landing_bytes`: reads land in the slots."""
        return 0


class CpuBackend:
    """Implements `Backend`; tensors are float32 arrays.

    Args:
        options: what it is made for.
    """

    name = "cpu"

    def __init__(self, options: BackendOptions) -> None:
        self._threads = options.threads
        self.isa = kernels.available_isas()[0]
        self.clock, self.tensors, self.formulas = HostClock(), HostTensors(), CpuFormulas()

    @property
    def fingerprint(self) -> str:
        """See `Backend.fingerprint`; loads ONNX Runtime for its version."""
        return f"{self.isa}-{library()}"

    def require(self, spec: ModelSpec) -> None:
        """See `Backend.require`."""
        require_supported(spec)

    def load_routers(self, bundle: Bundle) -> NDArray[np.float32]:
        """See `Backend.load_routers`."""
        require_routers(bundle.manifest)
        return load_routers(bundle)

    def load_trunk(self, bundle: Bundle, *, max_chunk: int) -> OrtTrunk:
        """See `Backend.load_trunk`."""
        return OrtTrunk(
            bundle.path,
            bundle.manifest.model,
            threads=self._threads,
            max_chunk=max_chunk,
            embedding=bundle.manifest.trunk.embedding,
        )

    def make_kernels(self, bundle: Bundle, max_tokens: int) -> CpuKernels:
        """See `Backend.make_kernels`."""
        return CpuKernels(bundle.manifest.model, max_tokens, self._threads)

    def make_space(self, record_bytes: int, reads: int) -> HostSpace:
        """See `Backend.make_space`."""
        return HostSpace()

    def close(self) -> None:
        """Nothing runs by itself."""
