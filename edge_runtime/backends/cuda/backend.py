"""The CUDA backend: experts computed on an NVIDIA GPU, and the trunk there too where its kernels know the model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, cached_property, partial
from typing import Any, TypeVar

from edge_runtime.backends.base import BackendOptions
from edge_runtime.backends.cpu.backend import CpuBackend
from edge_runtime.backends.cuda.choice import ChosenTrunk, choose_trunk
from edge_runtime.backends.cuda.clock import CudaClock
from edge_runtime.backends.cuda.experts import CudaExpertKernels
from edge_runtime.backends.cuda.formulas import DeviceFormulas, EngineFormulas, HostedFormulas, ProviderFormulas
from edge_runtime.backends.cuda.gpu import Gpu
from edge_runtime.backends.cuda.grids import require_tokens
from edge_runtime.backends.cuda.hosted import HostedKernels
from edge_runtime.backends.cuda.known import unknown_parts
from edge_runtime.backends.cuda.memory_probe import Memory, choose_memory
from edge_runtime.backends.cuda.onnx.provider import Provider, try_provider
from edge_runtime.backends.cuda.onnx.runtime import load_on_provider
from edge_runtime.backends.cuda.resident_router import make_resident_router
from edge_runtime.backends.cuda.settings import AUTO, HOST, CudaSettings
from edge_runtime.backends.cuda.space import CudaSpace
from edge_runtime.backends.cuda.tensorrt.building import make_builder
from edge_runtime.backends.cuda.tensorrt.library import Library, load_library
from edge_runtime.backends.cuda.tensorrt.parts import EngineParts
from edge_runtime.backends.cuda.tensorrt.plans import FORMAT as PLANS
from edge_runtime.backends.cuda.tensors import CudaTensors
from edge_runtime.backends.cuda.trunk.launches import TrunkLaunches
from edge_runtime.backends.cuda.trunk.parts import KernelParts, TrunkParts
from edge_runtime.backends.cuda.trunk.trunk import CudaTrunk
from edge_runtime.backends.trunk import Trunk
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.bundle import Bundle

Closes = TypeVar("Closes", bound=Any)


@cache
def _say_once(why: str) -> None:
    """Warn that the trunk is not on the GPU though nobody asked for that; once a process for a reason."""
    logging.getLogger(__name__).warning("cuda: experts are on the GPU, the trunk is on the CPU: %s", why)


class CudaBackend:
    """Implements `Backend`. With the trunk on the CPU tensors are float32 arrays, else `DeviceTensor`.

    Args:
        options: what it is made for.
        open_gpu: opens the GPU of a number, when it is first needed.
        load_tensorrt: loads TensorRT, where that comes into question.
        try_onnx: tries ONNX Runtime's CUDA provider on the GPU of a number, where that comes into question.

    Raises:
        ConfigError: a setting is not one of those there are.
    """

    name = "cuda"

    def __init__(
        self,
        options: BackendOptions,
        open_gpu: Callable[[int], Gpu] = lambda index: Gpu(index=index),
        load_tensorrt: Callable[[], Library] = load_library,
        try_onnx: Callable[[int], Provider] = try_provider,
    ) -> None:
        self._settings = CudaSettings.from_params(options.settings)
        self._options, self._cpu = options, CpuBackend(options)
        self._open_gpu, self._load_tensorrt, self._try_onnx = open_gpu, load_tensorrt, try_onnx
        self._opened: list[Any] = []  # closed in reverse
        self.trunk = ChosenTrunk(HOST, "no model was asked for")
        """Where the trunk runs, and why; known once `require` was asked."""

    @cached_property
    def gpu(self) -> Gpu:
        """The GPU, opened by whoever asks first."""
        return self._keep(self._open_gpu(self._settings.gpu))

    @cached_property
    def memory(self) -> Memory:
        """Which memory experts are in, and why."""
        return choose_memory(self.gpu, self._settings.memory)

    @cached_property
    def tensors(self) -> Any:
        """See `Backend.tensors`."""
        if not self.trunk.is_here:
            return self._cpu.tensors
        return self._keep(CudaTensors(TrunkLaunches(self.gpu.module, self.gpu.compute), self.gpu.compute))

    @cached_property
    def clock(self) -> Any:
        """See `Backend.clock`: the GPU's, or the host's where every layer waits for it anyway."""
        return self._keep(CudaClock(self.gpu.compute)) if self.trunk.is_here else self._cpu.clock

    @property
    def formulas(self) -> HostedFormulas:
        """See `Backend.formulas`."""
        trunk, given = self.trunk, (lambda: self.memory.kind, self._cpu.choice)
        if trunk.provider is not None:
            return ProviderFormulas(*given, trunk.provider.session_bytes)
        if trunk.library is not None:
            return EngineFormulas(*given, self._settings.workspace_bytes)
        return DeviceFormulas(*given) if trunk.is_here else HostedFormulas(*given)

    @property
    def choices(self) -> dict[str, Any]:
        """See `Backend.choices`."""
        memory, trunk = self.memory, self.trunk
        found = {"memory": memory.kind, "memory_reason": memory.why, "memory_probe": memory.probe}
        return found | {"trunk": trunk.name, "trunk_reason": trunk.why}

    @property
    def driver_bytes(self) -> int:
        """See `Backend.driver_bytes`: 0 until the GPU is opened."""
        return self.gpu.device.taken.bytes if "gpu" in self.__dict__ else 0

    @property
    def isa(self) -> str:
        """See `Backend.isa`: as "sm_87"."""
        return self.gpu.device.arch

    @property
    def fingerprint(self) -> str:
        """See `Backend.fingerprint`."""
        library, provider = self.trunk.library, self.trunk.provider
        if provider is not None:
            return f"cuda-{self.gpu.fingerprint}-{provider.name}"
        engines = "" if library is None else f"-{library.name}-plans-{PLANS}"
        return f"cuda-{self.gpu.fingerprint}" + (engines if self.trunk.is_here else f"-{self._cpu.fingerprint}")

    def require(self, spec: ModelSpec) -> None:
        """See `Backend.require`. Opens the GPU: what its driver takes is gone when the memory is planned."""
        self.memory  # noqa: B018 - opens the GPU, and refuses memory that cannot be had
        if problem := next(unknown_parts(spec.experts, "experts"), ""):
            raise ConfigError(f"model family {spec.family!r}: {problem}: no kernel on the GPU. Use --backend cpu.")
        gpu = self._settings.gpu
        self.trunk = choose_trunk(spec, self._settings.trunk, self._load_tensorrt, lambda: self._try_onnx(gpu))
        if self.trunk.is_on_host and self._settings.trunk == AUTO:
            _say_once(self.trunk.why)
        if self.trunk.provider is not None:
            self._cpu = CpuBackend(replace(self._options, trunk="onnx"))
        if not self.trunk.is_here:
            self._cpu.require(spec)

    def load_routers(self, bundle: Bundle) -> Any:
        """See `Backend.load_routers`."""
        return self._cpu.load_routers(bundle)

    def load_trunk(self, bundle: Bundle, *, max_chunk: int) -> Trunk[Any]:
        """See `Backend.load_trunk`."""
        if self.trunk.provider is not None:
            return self._load_on_provider(bundle, self.trunk.provider, max_chunk)
        if not self.trunk.is_here:
            return self._cpu.load_trunk(bundle, max_chunk=max_chunk)
        require_tokens(bundle.manifest.model, max_chunk, trunk=self.trunk.has_kernels)
        gpu, library = self.gpu, self.trunk.library
        parts: TrunkParts = KernelParts(bundle, gpu.module, gpu.compute) if library is None else EngineParts(
            bundle, library, gpu.compute, max_chunk, self._settings.workspace_bytes,
            partial(make_builder, library.module),
        )  # fmt: skip
        return CudaTrunk(bundle, parts, gpu.module, gpu.compute, max_chunk)

    def _load_on_provider(self, bundle: Bundle, provider: Provider, max_chunk: int) -> Trunk[Any]:
        """ONNX Runtime allocates by itself: what the plan counts and is no page of this process is on the GPU."""
        device = self.gpu.device
        nbytes = self.formulas.trunk_bytes(bundle.manifest) if device.integrated else 0
        trunk, key = device.taken.take(nbytes, lambda: load_on_provider(bundle, provider, max_chunk))
        self._keep(ExitStack()).callback(device.taken.give_back, key)
        return trunk

    def make_kernels(self, bundle: Bundle, max_tokens: int) -> HostedKernels | CudaExpertKernels:
        """See `Backend.make_kernels`."""
        gpu, spec = self.gpu, bundle.manifest.model
        require_tokens(spec, max_tokens, trunk=self.trunk.has_kernels)
        holds = self._settings.graph and self.trunk.has_kernels  # engines do not wait for what is held back
        experts = self._keep(CudaExpertKernels(gpu.module, gpu.compute, spec, max_tokens, holds=holds))
        if not self.trunk.is_here:
            return self._keep(HostedKernels(experts, gpu.compute, spec, max_tokens, self._cpu.release_scratch))
        router = make_resident_router(gpu.module, gpu.compute, experts, bundle)
        if router is not None:
            experts.resident_router = self._keep(router)
        return experts

    def make_space(self, record_bytes: int, reads: int) -> CudaSpace:
        """See `Backend.make_space`."""
        gpu, memory = self.gpu, self.memory
        return self._keep(CudaSpace(gpu.compute, gpu.copies, memory.kind, memory.staging, record_bytes, reads))

    def close(self) -> None:
        """See `Backend.close`."""
        with ExitStack() as rest:  # one that fails leaves none of the others open
            while self._opened:
                rest.callback(self._opened.pop(0).close)

    def _keep(self, part: Closes) -> Closes:
        """Close a part with the backend."""
        self._opened.append(part)
        return part
