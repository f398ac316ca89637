"""Graphs on the CUDA provider: arrays stay the host's, and are copied whenever a graph runs.

The provider copies inputs when they are bound, not when a graph runs. Arrays that change are therefore given anew with
every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from edge_runtime.backends.cpu.trunk.onnx_runtime import OnnxRuntime, as_declared
from edge_runtime.backends.cpu.trunk.ort import OrtTrunk
from edge_runtime.backends.cuda.onnx.provider import Provider
from edge_runtime.base.arrays import F32
from edge_runtime.bundle.bundle import Bundle


class Copied(NamedTuple):
    """What a graph reads and writes, by name; copied when it runs."""

    inputs: Mapping[str, F32]
    outputs: Mapping[str, F32]

    @property
    def tokens(self) -> int:
        """Most rows of what enters."""
        return max(int(array.shape[1]) for name, array in self.inputs.items() if name in ("resid", "x"))


class CudaRuntime(OnnxRuntime):
    """Implements `OnnxRuntime` on the GPU.

    Args:
        bundle_path: directory of a bundle whose parts were checked.
        provider: that was tried.
    """

    def __init__(self, bundle_path: Path, provider: Provider) -> None:
        super().__init__(bundle_path, 1, provider.module)
        self._provider = provider
        self._shrinks = self.module.RunOptions()
        self._shrinks.add_run_config_entry("memory.enable_memory_arena_shrinkage", f"gpu:{provider.gpu}")

    def _open(self, path: Path, on_host: bool) -> Any:
        if on_host:
            return super()._open(path, on_host)
        return self._provider.open(str(path), self._options)

    def bind(self, session: Any, inputs: Mapping[str, F32], outputs: Mapping[str, F32]) -> Copied:
        """See `OnnxRuntime.bind`."""
        return Copied(as_declared(session, inputs), outputs)

    def _execute(self, session: Any, binding: Any) -> None:
        if not isinstance(binding, Copied):
            return super()._execute(session, binding)
        # what a long chunk took of the GPU goes back: each session has an arena of its own
        options = self._shrinks if binding.tokens > 1 else None
        found = session.run(list(binding.outputs), dict(binding.inputs), options)
        for array, result in zip(binding.outputs.values(), found, strict=True):
            array[...] = result
        return None


def load_on_provider(bundle: Bundle, provider: Provider, max_chunk: int) -> OrtTrunk:
    """Load a bundle's trunk.

    Raises:
        BundleError: a graph is refused.
        DeviceError: the provider does not load any more.
    """
    spec, embedding = bundle.manifest.model, bundle.manifest.trunk.embedding
    runtime = CudaRuntime(bundle.path, provider)
    return OrtTrunk(bundle.path, spec, threads=1, max_chunk=max_chunk, embedding=embedding, runtime=runtime)
