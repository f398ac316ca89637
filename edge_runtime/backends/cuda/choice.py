"""Where the trunk runs: our kernels, TensorRT's engines, ONNX Runtime's CUDA provider, or the CPU; and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from edge_runtime.backends.cpu.trunk.supported import require_supported
from edge_runtime.backends.cuda.onnx.provider import Provider
from edge_runtime.backends.cuda.settings import AUTO, ENGINES, HOST, KERNELS, PROVIDER
from edge_runtime.backends.cuda.tensorrt import supported as engines
from edge_runtime.backends.cuda.tensorrt.library import Library
from edge_runtime.backends.cuda.trunk import supported as kernels
from edge_runtime.base.errors import ConfigError, DeviceError
from edge_runtime.base.spec import ModelSpec

_AGREES = "ONNX Runtime's CUDA provider computes every operator of the graphs as the CPU does"


class ChosenTrunk(NamedTuple):
    """What computes the trunk.

    Attributes:
        name: one of `settings.TRUNK`, for reports.
        why: in words.
        is_here: its tensors are the GPU's; else they are the host's.
        library: TensorRT, where that does.
        provider: of ONNX Runtime, where that does.
    """

    name: str
    why: str
    is_here: bool = False
    library: Library | None = None
    provider: Provider | None = None

    @property
    def has_kernels(self) -> bool:
        """Whether our own kernels do."""
        return self.is_here and self.library is None

    @property
    def is_on_host(self) -> bool:
        """Whether the CPU does."""
        return not self.is_here and self.provider is None


def choose_trunk(
    spec: ModelSpec, wanted: str, load: Callable[[], Library], try_provider: Callable[[], Provider]
) -> ChosenTrunk:
    """Choose what computes a model's trunk.

    Args:
        spec: the model.
        wanted: one of `settings.TRUNK`.
        load: loads TensorRT, where it comes into question.
        try_provider: tries ONNX Runtime's CUDA provider, where it comes into question.

    Raises:
        ConfigError: what is wanted does not run the model; names the layer and the part.
        DeviceError: what is wanted is not here, or does not work.
    """
    if wanted == HOST:
        return ChosenTrunk(HOST, "asked for")
    if wanted == ENGINES:
        if problem := engines.why_not(spec):
            raise _refused("TensorRT", problem)
        return ChosenTrunk(ENGINES, "asked for", is_here=True, library=load())
    if wanted == PROVIDER:
        require_supported(spec)
        return ChosenTrunk(PROVIDER, f"asked for; {_AGREES}", provider=try_provider())
    problem = kernels.why_not(spec)
    if not problem:
        return ChosenTrunk(KERNELS, "its kernels know the model", is_here=True)
    if wanted != AUTO:
        raise _refused("the trunk on the GPU", problem)
    return _beyond_kernels(spec, f"the kernels lack {problem}", load, try_provider)


def _beyond_kernels(
    spec: ModelSpec, why: str, load: Callable[[], Library], try_provider: Callable[[], Provider]
) -> ChosenTrunk:
    """Choose for a model that the kernels do not know: what is there and works, and why the others do not."""
    lacking = engines.why_not(spec)
    try:
        if not lacking:
            return ChosenTrunk(ENGINES, why, is_here=True, library=load())
        why = f"{why}; TensorRT: {lacking}"
    except DeviceError as err:
        why = f"{why}; {err}"
    try:
        return ChosenTrunk(PROVIDER, f"{why}; {_AGREES}", provider=try_provider())
    except DeviceError as err:
        return ChosenTrunk(HOST, f"{why}; {err}")


def _refused(what: str, problem: str) -> ConfigError:
    return ConfigError(f"cuda: {what} does not run this model: {problem}. Use --backend cuda:trunk=cpu, or auto.")
