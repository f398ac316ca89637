"""What follows the backend's name: ``cuda:memory=device,trunk=cpu``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_runtime.base.errors import ConfigError, did_you_mean
from edge_runtime.base.params import Param

AUTO = "auto"
MEMORY = (AUTO, "registered", "pinned", "device")
KERNELS, ENGINES, PROVIDER, HOST = "cuda", "tensorrt", "onnx", "cpu"
TRUNK = (AUTO, KERNELS, ENGINES, PROVIDER, HOST)
PARAMS: Mapping[str, Param] = {
    "memory": Param(AUTO, f"where experts are kept: {', '.join(MEMORY)}", "ours"),
    "trunk": Param(AUTO, f"where everything but experts runs: {', '.join(TRUNK)}", "ours"),
    "graph": Param(True, "tokens that need no host run as one CUDA graph", "ours"),
    "workspace": Param(256, "MiB that TensorRT may try kernels in, and an engine work in", "ours", 16, 65536),
    "gpu": Param(0, "number of the GPU, as the driver counts", "ours", 0, 255),
}


@dataclass(frozen=True)
class CudaSettings:
    """Settings of the backend.

    Attributes:
        memory: one of `MEMORY`.
        trunk: one of `TRUNK`.
        graph: tokens that need no host run as one graph.
        workspace: MiB that TensorRT may try kernels in, and an engine work in.
        gpu: number of the GPU.
    """

    memory: str = AUTO
    trunk: str = AUTO
    graph: bool = True
    workspace: int = 256
    gpu: int = 0

    @property
    def workspace_bytes(self) -> int:
        """The same in bytes."""
        return self.workspace << 20

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> CudaSettings:
        """Take converted parameters.

        Raises:
            ConfigError: a value is not one of those there are.
        """
        found = cls(**params)
        for name, values in (("memory", MEMORY), ("trunk", TRUNK)):
            given = getattr(found, name)
            if given not in values:
                raise ConfigError(
                    f"backend 'cuda'.{name}: expected one of {', '.join(values)}, got {given!r}."
                    f"{did_you_mean(given, values)}"
                )
        return found
