"""The late backend itself: makes the parts, all on one device."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from edge_runtime.backends.base import BackendOptions
from edge_runtime.backends.cpu.backend import CpuBackend, CpuFormulas
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.policy.routing import router_of
from late_backend.device import Device, DeviceClock
from late_backend.kernels import LateKernels
from late_backend.memory import DeviceMemory, LateSpace
from late_backend.tensors import LateTensors
from late_backend.trunk import LateTrunk


class LateFormulas(CpuFormulas):
    """Implements `MemoryFormulas`: what the CPU takes, and staging buffers."""

    def landing_bytes(self, record_bytes: int, reads: int) -> int:
        """See `MemoryFormulas.landing_bytes`: as many buffers as reads."""
        return record_bytes * reads


class LateBackend:
    """Implements `Backend`; tensors are `LateTensor`.

    Args:
        options: what it is made for.
        mode: of the device: `late` or `random:SEED`.
    """

    name, driver_bytes = "late", 0
    choices: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, options: BackendOptions, mode: str) -> None:
        self._cpu = CpuBackend(options)
        self.isa = self._cpu.isa
        self.device = Device(mode)
        self.memory = DeviceMemory(self.device)
        self.clock, self.tensors = DeviceClock(self.device), LateTensors(self.device)
        self.formulas = LateFormulas(self._cpu.choice)

    @property
    def fingerprint(self) -> str:
        """See `Backend.fingerprint`."""
        return f"late-{self._cpu.fingerprint}"

    def require(self, spec: ModelSpec) -> None:
        """See `Backend.require`."""
        self._cpu.require(spec)

    def load_routers(self, bundle: Bundle) -> Any:
        """See `Backend.load_routers`."""
        return self._cpu.load_routers(bundle)

    def load_trunk(self, bundle: Bundle, *, max_chunk: int) -> LateTrunk:
        """See `Backend.load_trunk`."""
        inner = self._cpu.load_trunk(bundle, max_chunk=max_chunk)
        return LateTrunk(self.device, inner, bundle.manifest.model, max_chunk)

    def make_kernels(self, bundle: Bundle, max_tokens: int) -> LateKernels:
        """See `Backend.make_kernels`."""
        spec = bundle.manifest.model
        inner = self._cpu.make_kernels(bundle, max_tokens)
        return LateKernels(self.device, self.memory, inner, spec, router_of(spec, bundle.router_data()))

    def make_space(self, record_bytes: int, reads: int) -> LateSpace:
        """See `Backend.make_space`."""
        return LateSpace(self.device, self.memory, record_bytes, reads)

    def close(self) -> None:
        """See `Backend.close`."""
        self.device.close()
