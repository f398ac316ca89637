"""The CUDA backend: experts computed on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from edge_runtime.backends.base import BackendOptions
from edge_runtime.backends.cpu.backend import CpuBackend, CpuFormulas
from edge_runtime.backends.cuda.blocks import Kind, choose_kind
from edge_runtime.backends.cuda.experts import CudaExpertKernels, expert_scratch_bytes
from edge_runtime.backends.cuda.gpu import Gpu
from edge_runtime.backends.cuda.hosted import HostedKernels
from edge_runtime.backends.cuda.settings import CudaSettings
from edge_runtime.backends.cuda.space import CudaSpace
from edge_runtime.backends.trunk import Trunk
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.bundle import Bundle


class CudaFormulas(CpuFormulas):
    """Implements `MemoryFormulas`: host and GPU are taken to share one memory, in which everything counts once.

    Args:
        kind: asks for the kind of memory experts are in.
    """

    def __init__(self, kind: Callable[[], Kind]) -> None:
        self._kind = kind

    def scratch_bytes(self, spec: ModelSpec, chunk: int, context: int, parallel: int) -> int:
        """See `MemoryFormulas.scratch_bytes`: the trunk's on the host and the experts' on the GPU."""
        tokens = chunk + parallel - 1
        copied = 3 * 4 * tokens * spec.hidden  # x on the GPU, the result in pinned memory and in an array
        return super().scratch_bytes(spec, chunk, context, parallel) + expert_scratch_bytes(spec, tokens) + copied

    def landing_bytes(self, record_bytes: int, reads: int) -> int:
        """See `MemoryFormulas.landing_bytes`: staging buffers, where reads cannot land in the slots."""
        return record_bytes * reads if self._kind() == "device" else 0


class CudaBackend:
    """Implements `Backend`: experts on the GPU, the trunk on the CPU backend's; tensors are float32 arrays.

    Args:
        options: what it is made for.
        open_gpu: opens the GPU of a number, when it is first needed.

    Raises:
        ConfigError: a setting is not one of those there are.
    """

    name = "cuda"

    def __init__(
        self, options: BackendOptions, open_gpu: Callable[[int], Gpu] = lambda index: Gpu(index=index)
    ) -> None:
        self._settings = CudaSettings.from_params(options.settings)
        self._cpu, self._open_gpu = CpuBackend(options), open_gpu
        self._opened: list[Any] = []  # closed in reverse
        self.clock, self.tensors = self._cpu.clock, self._cpu.tensors
        self.formulas = CudaFormulas(lambda: self.memory[0])

    @cached_property
    def gpu(self) -> Gpu:
        """The GPU, opened by whoever asks first."""
        gpu = self._open_gpu(self._settings.gpu)
        self._opened.append(gpu)
        return gpu

    @cached_property
    def memory(self) -> tuple[Kind, str]:
        """Which memory experts are in, and why."""
        return choose_kind(self.gpu.device, self._settings.memory)

    @property
    def isa(self) -> str:
        """See `Backend.isa`: as "sm_87"."""
        return self.gpu.device.arch

    @property
    def fingerprint(self) -> str:
        """See `Backend.fingerprint`."""
        return f"cuda-{self.gpu.fingerprint}-{self._cpu.fingerprint}"

    def require(self, spec: ModelSpec) -> None:
        """See `Backend.require`. Opens the GPU: what its driver takes is gone when the memory is planned."""
        self._cpu.require(spec)
        self.memory  # noqa: B018 - opens the GPU, and refuses memory that cannot be had

    def load_routers(self, bundle: Bundle) -> Any:
        """See `Backend.load_routers`."""
        return self._cpu.load_routers(bundle)

    def load_trunk(self, bundle: Bundle, *, max_chunk: int) -> Trunk[Any]:
        """See `Backend.load_trunk`."""
        return self._cpu.load_trunk(bundle, max_chunk=max_chunk)

    def make_kernels(self, bundle: Bundle, max_tokens: int) -> HostedKernels:
        """See `Backend.make_kernels`."""
        gpu, spec = self.gpu, bundle.manifest.model
        experts = CudaExpertKernels(gpu.module, gpu.compute, spec, max_tokens)
        self._opened.append(experts)
        kernels = HostedKernels(experts, gpu.compute, spec, max_tokens)
        self._opened.append(kernels)
        return kernels

    def make_space(self, record_bytes: int, reads: int) -> CudaSpace:
        """See `Backend.make_space`."""
        space = CudaSpace(self.gpu.compute, self.gpu.copies, self.memory[0], record_bytes, reads)
        self._opened.append(space)
        return space

    def close(self) -> None:
        """See `Backend.close`."""
        while self._opened:
            self._opened.pop().close()
