"""ONNX Runtime's CUDA provider: whether it is here, and whether it computes each operator as the CPU does.

Its list of providers is made when it is compiled: packages list CUDA whose libraries are missing, or that hold no code
for this GPU. So each operator of a bundle's graphs is computed, on the GPU alone, and compared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from edge_runtime.backends.cpu.trunk.onnx_runtime import errors_of, first_line, import_onnxruntime
from edge_runtime.backends.cuda.onnx.operators import Case, cases
from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import DeviceError
from edge_runtime.telemetry.hardware import meminfo

CUDA, HOST = "CUDAExecutionProvider", "CPUExecutionProvider"
_CLOSE = 1e-4
"""Of the largest number; float32 in another order gives some 1e-6, TF32 1e-3."""
_HOW = (
    "JetPack 6.2: pip uninstall onnxruntime, then onnxruntime-gpu from NVIDIA's Jetson AI Lab index (jp6/cu126). "
    "JetPack 7.2: no package is published, build it with --use_cuda and CMAKE_CUDA_ARCHITECTURES=87;110. Elsewhere: "
    "onnxruntime-gpu from PyPI in place of onnxruntime. Or take --backend cuda:trunk=auto."
)


class Provider(NamedTuple):
    """The provider, which was tried.

    Attributes:
        module: ONNX Runtime.
        gpu: number of the GPU.
        session_bytes: memory that a session took besides its weights, measured.
    """

    module: Any
    gpu: int = 0
    session_bytes: int = 0

    @property
    def name(self) -> str:
        """Name and version."""
        return f"onnxruntime-cuda-{self.module.__version__}"

    def open(self, graph: str | bytes, options: Any = None) -> Any:
        """Create a session: float32 stays float32, memory is taken as it is asked for, and errors are raised.

        Left to itself ONNX Runtime goes on with the CPU after an error of the GPU.

        Raises:
            DeviceError: the provider does not load.
        """
        chosen = (CUDA, {"device_id": self.gpu, "use_tf32": 0, "arena_extend_strategy": "kSameAsRequested"})
        session = self.module.InferenceSession(graph, options, providers=[chosen], enable_fallback=0)
        if CUDA not in session.get_providers():
            why = "it is listed and does not load: a library is missing, most often of cuBLAS or cuDNN"
            raise _refused(self.module, why)
        return session


def available_memory() -> int:
    """Return the system's available memory in bytes; on a Jetson the GPU takes from it too."""
    return meminfo(Path("/proc/meminfo").read_text(), "MemAvailable") or 0


def try_provider(
    gpu: int, load: Callable[[], Any] = import_onnxruntime, available_bytes: Callable[[], int] = available_memory
) -> Provider:
    """Compute every operator on the GPU and on the CPU.

    Args:
        gpu: number of the GPU.
        load: imports ONNX Runtime.
        available_bytes: asks for the available memory.

    Raises:
        DeviceError: the provider is missing, does not load, or computes something else; says which, and what to do.
    """
    module = load()
    if CUDA not in module.get_available_providers():
        raise DeviceError(f"ONNX Runtime {module.__version__} was built without its CUDA provider. {_HOW}")
    kept: list[Any] = []
    provider, taken = Provider(module, gpu), []
    for case in cases():
        try:
            if not kept:
                kept.append(provider.open(case.model()))  # loads the libraries, or says that it cannot
            expected = _run(module.InferenceSession(case.model(), providers=[HOST]), case)
            before = available_bytes()
            kept.append(provider.open(case.model(), _on_the_gpu_alone(module)))
            found = _run(kept[-1], case)
            taken.append(before - available_bytes())
        except errors_of(module) as err:
            raise _refused(module, f"{case.name}: {first_line(err)}") from err
        if error := _largest_error(found, expected):
            raise _refused(module, f"{case.name}: off by {error:.1e} of the largest number")
    return provider._replace(session_bytes=max(0, int(median(taken))))  # others take and give back memory meanwhile


def _on_the_gpu_alone(module: Any) -> Any:
    """Return options of a session that refuses what it would leave to the CPU, whose result would agree."""
    options = module.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def _run(session: Any, case: Case) -> list[F32]:
    x = np.linspace(0.25, 2, int(np.prod(case.shape)), dtype=np.float32).reshape(case.shape)
    found: list[F32] = session.run(None, {"x": x})
    return found


def _largest_error(found: list[F32], expected: list[F32]) -> float:
    """Return the largest error as a share of the largest number; 0 if it is close."""
    errors = [float(np.abs(f - e).max() / np.abs(e).max()) for f, e in zip(found, expected, strict=True)]
    return next((error for error in errors if not error <= _CLOSE), 0.0)


def _refused(module: Any, why: str) -> DeviceError:
    return DeviceError(f"the CUDA provider of ONNX Runtime {module.__version__} does not work here: {why}. {_HOW}")
