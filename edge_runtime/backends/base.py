"""What a backend is: it makes everything that computes, and the memory that is computed from.

The engine joins these parts and looks into none of them. Activations are the backend's own tensors, of a type `T` the
engine never opens; numpy appears only at the edges: token ids in, logits out, router logits where a policy on the host
decides. Bits are promised per backend: a backend gives the same ones whatever is resident and in whatever order it was
read; two backends need not give the same (docs/adr/0064-bit-identity-is-promised-per-backend.md).

Letters: N tokens of a pass, T a backend's tensor, D hidden, E experts of a layer, K top-k, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from edge_runtime.backends.kernels import ExpertKernels
from edge_runtime.backends.memory import MemorySpace
from edge_runtime.backends.trunk import Trunk
from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.telemetry.spans import Clock

T = TypeVar("T")
Tensor = Any
"""A backend's tensor where its type does not matter: passed on, never opened."""


@dataclass(frozen=True)
class BackendOptions:
    """What a backend is made for.

    Attributes:
        threads: host threads that compute.
        settings: what followed the backend's name, converted (`RegisteredBackend.params`); {} for its defaults.
        trunk: what computes the dense part on the host: "native", "onnx", or "auto".
    """

    threads: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    trunk: str = "auto"


class TensorOps(Protocol[T]):
    """The little arithmetic between trunk and kernels."""

    def join(self, parts: Sequence[T]) -> T:
        """Return the rows of several tensors [n, X], one after the other."""
        ...

    def split(self, whole: T, rows: Sequence[int]) -> list[T]:
        """Cut a tensor into parts of so many rows each; they may share its memory."""
        ...

    def add(self, into: T, more: T) -> None:
        """Add a tensor to another in place."""
        ...

    def to_host(self, tensor: T) -> F32:
        """Return the numbers as float32, once they have been computed. Valid as long as the tensor."""
        ...


@dataclass(frozen=True)
class Compute(Generic[T]):
    """What computes passes, all of one backend.

    Attributes:
        trunk: the dense part of the model.
        kernels: its experts.
        tensors: arithmetic between the two.
        clock: measures their time.
    """

    trunk: Trunk[T]
    kernels: ExpertKernels[T]
    tensors: TensorOps[T]
    clock: Clock


class MemoryFormulas(Protocol):
    """What a backend will take of the memory, from sizes alone, before anything is loaded."""

    def library_bytes(self) -> int:
        """Return what loading the libraries adds to this process: 0 if they are loaded."""
        ...

    def trunk_bytes(self, manifest: Manifest) -> int:
        """Return what the loaded trunk takes: weights, repacked copies, sessions."""
        ...

    def look_ahead_bytes(self, spec: ModelSpec) -> int:
        """Return what `Trunk.look_ahead` takes on top."""
        ...

    def kv_bytes(self, spec: ModelSpec, tokens: int) -> int:
        """Return what layers keep of a sequence of so many tokens; for 0 tokens what does not grow with them."""
        ...

    def scratch_bytes(self, spec: ModelSpec, chunk: int, context: int, parallel: int) -> int:
        """Return the most a pass takes while it runs.

        Args:
            spec: the model.
            chunk: tokens of the one sequence that brings several.
            context: tokens of a KV cache.
            parallel: sequences of the pass.
        """
        ...

    def workspace_bytes(self) -> int:
        """Return what a trunk that is built on the device takes for that, and then to run: 0 for any other."""
        ...

    def landing_bytes(self, record_bytes: int, reads: int) -> int:
        """Return what reads land in on their way to the slots: 0 where they land in the slots.

        Args:
            record_bytes: of the largest read.
            reads: under way at once.
        """
        ...


class Backend(Protocol[T]):
    """Makes the parts of an engine. Until it is asked for one it loads and holds nothing, so `close` may be left out.

    An engine asks for each part once: for the space, then the trunk, then the kernels. They are made in the thread that
    opens the engine. Later one thread at a time uses them, often another one.
    """

    @property
    def name(self) -> str:
        """As in `--backend`."""
        ...

    @property
    def isa(self) -> str:
        """What kernels are compiled for: an instruction set, or an architecture of a GPU."""
        ...

    @property
    def clock(self) -> Clock:
        """Measures its time."""
        ...

    @property
    def tensors(self) -> TensorOps[T]:
        """Arithmetic on its tensors."""
        ...

    @property
    def formulas(self) -> MemoryFormulas:
        """What it takes of the memory."""
        ...

    @property
    def choices(self) -> Mapping[str, Any]:
        """What it chose where several ways were open, and why; {} if there was nothing to choose. For reports: JSON."""
        ...

    @property
    def driver_bytes(self) -> int:
        """Memory of the system that a driver holds for it and the kernel does not count among this process's pages."""
        ...

    @property
    def fingerprint(self) -> str:
        """Names everything that decides the bits: results stored under it hold as long as it does not change."""
        ...

    def require(self, spec: ModelSpec) -> None:
        """Check that this backend can run a model.

        Raises:
            ConfigError: it cannot; names the layer and the part that is not supported.
        """
        ...

    def load_routers(self, bundle: Bundle) -> Tensor:
        """Load what `Trunk.look_ahead` applies, for `Trunk.set_routers`.

        Raises:
            BundleError: the bundle's exporter did not store it.
        """
        ...

    def load_trunk(self, bundle: Bundle, *, max_chunk: int) -> Trunk[T]:
        """Load the trunk of a bundle whose parts were checked.

        Args:
            bundle: an open bundle.
            max_chunk: most tokens `Trunk.begin` will be given at once.

        Raises:
            DeviceError: a library or a device is missing.
            BundleError: the trunk does not have the form of the format.
        """
        ...

    def make_kernels(self, bundle: Bundle, max_tokens: int) -> ExpertKernels[T]:
        """Make expert kernels for a bundle's model and passes of up to `max_tokens` tokens."""
        ...

    def make_space(self, record_bytes: int, reads: int) -> MemorySpace:
        """Make the address space experts are computed from.

        Args:
            record_bytes: of the largest read.
            reads: under way at once, as `MemoryFormulas.landing_bytes` was asked.
        """
        ...

    def close(self) -> None:
        """Release what has no `close` of its own, kernels among it; trunk and slots are closed. Safe to call twice."""
        ...
