"""The CPU backend: native kernels, and ONNX Runtime for what they do not know. All is done when a call returns."""

from __future__ import annotations

import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edge_runtime.backends.base import BackendOptions
from edge_runtime.backends.cpu import experts, kernels
from edge_runtime.backends.cpu.experts import CpuKernels
from edge_runtime.backends.cpu.space import HostSpace
from edge_runtime.backends.cpu.tensors import HostTensors
from edge_runtime.backends.cpu.trunk import memory
from edge_runtime.backends.cpu.trunk.choice import TrunkChoice
from edge_runtime.backends.cpu.trunk.kv_cache import HostKVCache
from edge_runtime.backends.cpu.trunk.native import memory as native_memory
from edge_runtime.backends.cpu.trunk.native.trunk import NativeTrunk
from edge_runtime.backends.cpu.trunk.supported import require_supported
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.telemetry.spans import HostClock

if TYPE_CHECKING:
    from edge_runtime.backends.cpu.trunk.ort import OrtTrunk


class CpuFormulas:
    """Implements `MemoryFormulas`.

    Args:
        choice: of the trunk; asked whenever something is to be known.
    """

    def __init__(self, choice: TrunkChoice) -> None:
        self._choice = choice

    def library_bytes(self) -> int:
        """See `MemoryFormulas.library_bytes`."""
        return 0 if self._choice.is_native or "onnxruntime" in sys.modules else memory.LIBRARY_BYTES

    def trunk_bytes(self, manifest: Manifest) -> int:
        """See `MemoryFormulas.trunk_bytes`."""
        return native_memory.plan_trunk_bytes(manifest) if self._choice.is_native else memory.plan_trunk_bytes(manifest)

    def look_ahead_bytes(self, spec: ModelSpec) -> int:
        """See `MemoryFormulas.look_ahead_bytes`: the native trunk applies the layers' own routers."""
        if self._choice.is_native:
            return 0
        from edge_runtime.backends.cpu.trunk.router_stack import routers_bytes

        return routers_bytes(spec)

    def kv_bytes(self, spec: ModelSpec, tokens: int) -> int:
        """See `MemoryFormulas.kv_bytes`."""
        return HostKVCache.bytes_for(spec, tokens)

    def scratch_bytes(self, spec: ModelSpec, chunk: int, context: int, parallel: int) -> int:
        """See `MemoryFormulas.scratch_bytes`."""
        kernels = experts.scratch_bytes(spec, chunk + parallel - 1)
        if not self._choice.is_native:
            return kernels + memory.scratch_bytes(spec, chunk, context)
        frames = parallel * native_memory.frame_bytes(spec, 1)
        return kernels + frames + native_memory.scratch_bytes(spec, chunk, self._choice.threads)

    def workspace_bytes(self) -> int:
        """See `MemoryFormulas.workspace_bytes`."""
        return 0

    def landing_bytes(self, record_bytes: int, reads: int) -> int:
        """See `MemoryFormulas.landing_bytes`: reads land in the slots."""
        return 0


class CpuBackend:
    """Implements `Backend`; tensors are float32 arrays.

    Args:
        options: what it is made for.
    """

    name, driver_bytes = "cpu", 0

    def __init__(self, options: BackendOptions) -> None:
        self.isa = kernels.available_isas()[0]
        self.choice = TrunkChoice(options)
        """Which trunk runs: known once `require` was asked."""
        self.clock, self.tensors, self.formulas = HostClock(), HostTensors(), CpuFormulas(self.choice)
        self._trunk: NativeTrunk | None = None

    @cached_property
    def _team(self) -> kernels.Team:
        """The threads, which trunk and experts share: started by whoever needs them first."""
        return kernels.make_team(self.choice.threads)

    @property
    def choices(self) -> dict[str, str]:
        """See `Backend.choices`."""
        return {"trunk": "native" if self.choice.is_native else "onnx"}

    @property
    def fingerprint(self) -> str:
        """See `Backend.fingerprint`; loads ONNX Runtime for its version if that computes."""
        if self.choice.is_native:
            return f"{self.isa}-native"
        from edge_runtime.backends.cpu.trunk.onnx_runtime import library

        return f"{self.isa}-{library()}"

    def require(self, spec: ModelSpec) -> None:
        """See `Backend.require`: chooses the trunk."""
        require_supported(spec)
        self.choice.choose(spec)

    def load_routers(self, bundle: Bundle) -> Any:
        """See `Backend.load_routers`."""
        if self.choice.is_native:
            return ()  # its layers have them
        from edge_runtime.backends.cpu.trunk.router_stack import load_routers, require_routers

        require_routers(bundle.manifest)
        return load_routers(bundle)

    def load_trunk(self, bundle: Bundle, *, max_chunk: int) -> OrtTrunk | NativeTrunk:
        """See `Backend.load_trunk`."""
        spec, embedding = bundle.manifest.model, bundle.manifest.trunk.embedding
        if self.choice.is_native:
            self._trunk = NativeTrunk(bundle.path, spec, team=self._team, max_chunk=max_chunk, embedding=embedding)
            return self._trunk
        from edge_runtime.backends.cpu.trunk.ort import OrtTrunk

        threads = self.choice.threads
        return OrtTrunk(bundle.path, spec, threads=threads, max_chunk=max_chunk, embedding=embedding)

    def make_kernels(self, bundle: Bundle, max_tokens: int) -> CpuKernels:
        """See `Backend.make_kernels`."""
        return CpuKernels(bundle.manifest.model, max_tokens, self._team, self.release_scratch)

    def release_scratch(self) -> None:
        """Give back what long chunks left behind in the trunk."""
        if self._trunk is not None:
            self._trunk.release_scratch()

    def make_space(self, record_bytes: int, reads: int) -> HostSpace:
        """See `Backend.make_space`."""
        return HostSpace()

    def close(self) -> None:
        """Nothing runs by itself."""
