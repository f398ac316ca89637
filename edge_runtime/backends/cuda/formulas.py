"""What the backend takes of the memory, from sizes alone.

Host and GPU are taken to share one memory, in which everything counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edge_runtime.backends.cpu.backend import CpuFormulas
from edge_runtime.backends.cpu.trunk.choice import TrunkChoice
from edge_runtime.backends.cpu.trunk.memory import scratch_bytes as graph_scratch_bytes
from edge_runtime.backends.cuda.blocks import Kind
from edge_runtime.backends.cuda.experts import expert_scratch_bytes
from edge_runtime.backends.cuda.trunk.buffers import buffer_bytes
from edge_runtime.backends.cuda.trunk.trunk import HEAD_ROWS
from edge_runtime.backends.cuda.trunk.widths import widths_of
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.part_names import stacked_routers_bytes, trunk_file

_PINNED_COPY = 2
"""What is read back exists on the GPU and in pinned memory."""


class HostedFormulas(CpuFormulas):
    """Implements `MemoryFormulas` for a trunk on the host.

    Args:
        kind: asks for the kind of memory experts are in.
        choice: of the trunk on the host.
    """

    def __init__(self, kind: Callable[[], Kind], choice: TrunkChoice) -> None:
        super().__init__(choice)
        self._kind = kind

    def scratch_bytes(self, spec: ModelSpec, chunk: int, context: int, parallel: int) -> int:
        """See `MemoryFormulas.scratch_bytes`: the trunk's on the host and the experts' on the GPU."""
        tokens = chunk + parallel - 1
        copied = 3 * 4 * tokens * spec.hidden  # x on the GPU, the result in pinned memory and in an array
        return super().scratch_bytes(spec, chunk, context, parallel) + expert_scratch_bytes(spec, tokens) + copied

    def landing_bytes(self, record_bytes: int, reads: int) -> int:
        """See `MemoryFormulas.landing_bytes`: staging buffers, where reads cannot land in the slots."""
        return record_bytes * reads if self._kind() == "device" else 0


class ProviderFormulas(HostedFormulas):
    """Implements `MemoryFormulas` for a trunk on ONNX Runtime's CUDA provider.

    Args:
        kind: asks for the kind of memory experts are in.
        choice: of the trunk's graphs.
        session_bytes: memory that a session takes besides its weights, measured.
    """

    def __init__(self, kind: Callable[[], Kind], choice: TrunkChoice, session_bytes: int) -> None:
        super().__init__(kind, choice)
        self._session_bytes = session_bytes

    def trunk_bytes(self, manifest: Manifest) -> int:
        """See `MemoryFormulas.trunk_bytes`: sessions take more than on the CPU."""
        graphs = sum(part.name.endswith(".onnx") for part in manifest.of_role("trunk"))
        return super().trunk_bytes(manifest) + graphs * self._session_bytes

    def kv_bytes(self, spec: ModelSpec, tokens: int) -> int:
        """See `MemoryFormulas.kv_bytes`: what a layer keeps is copied for its run, and its session keeps the room."""
        return 2 * super().kv_bytes(spec, tokens)


class DeviceFormulas(HostedFormulas):
    """Implements `MemoryFormulas` for a trunk on the GPU."""

    def library_bytes(self) -> int:
        """See `MemoryFormulas.library_bytes`: the driver's is loaded."""
        return 0

    def trunk_bytes(self, manifest: Manifest) -> int:
        """See `MemoryFormulas.trunk_bytes`: as stored; scales lie in the graphs."""
        parts = [part for part in manifest.of_role("trunk") if part.name != trunk_file("routers")]
        return sum(part.bytes for part in parts if part.name.endswith((".data", ".onnx")))

    def look_ahead_bytes(self, spec: ModelSpec) -> int:
        """See `MemoryFormulas.look_ahead_bytes`."""
        return stacked_routers_bytes(spec)

    def scratch_bytes(self, spec: ModelSpec, chunk: int, context: int, parallel: int) -> int:
        """See `MemoryFormulas.scratch_bytes`: buffers of each sequence, of joined tensors, and of what is read back."""
        tokens = chunk + parallel - 1
        widths = self._widths(spec)
        buffers = buffer_bytes(widths, chunk) + parallel * buffer_bytes(widths, 1)
        joined = 2 * 4 * tokens * (spec.hidden + spec.num_experts) if parallel > 1 else 0
        read_back = _PINNED_COPY * 4 * max(HEAD_ROWS * spec.vocab_size, tokens * spec.num_experts)
        return buffers + joined + read_back + expert_scratch_bytes(spec, tokens)

    def _widths(self, spec: ModelSpec) -> Mapping[str, int]:
        """Numbers a token has in each buffer."""
        return widths_of(spec)


def state_numbers(spec: ModelSpec) -> int:
    """Return the most numbers a layer keeps of a token."""
    return max(sum(array.numbers for array in spec.state_of(i)) for i in range(spec.num_layers))


class EngineFormulas(DeviceFormulas):
    """Implements `MemoryFormulas` for a trunk of TensorRT's engines.

    Args:
        kind: asks for the kind of memory experts are in.
        choice: of the trunk on the host.
        workspace_bytes: most that engines are built in, and that an operator of theirs works in.
    """

    def __init__(self, kind: Callable[[], Kind], choice: TrunkChoice, workspace_bytes: int) -> None:
        super().__init__(kind, choice)
        self._workspace_bytes = workspace_bytes

    def workspace_bytes(self) -> int:
        """See `MemoryFormulas.workspace_bytes`: engines are built first, and run later."""
        return self._workspace_bytes

    def trunk_bytes(self, manifest: Manifest) -> int:
        """See `MemoryFormulas.trunk_bytes`: int8 weights become half precision."""
        stored = super().trunk_bytes(manifest)
        return 2 * stored if manifest.trunk.precision == "int8" else stored

    def _widths(self, spec: ModelSpec) -> Mapping[str, int]:
        return {"streams": 5 * spec.hidden, "router_logits": spec.num_experts, "states": state_numbers(spec)}

    def scratch_bytes(self, spec: ModelSpec, chunk: int, context: int, parallel: int) -> int:
        """See `MemoryFormulas.scratch_bytes`: engines keep what the graphs keep on a CPU, masks among it."""
        return super().scratch_bytes(spec, chunk, context, parallel) + graph_scratch_bytes(spec, chunk, context)
