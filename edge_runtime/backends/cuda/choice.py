"""Where the trunk runs: our kernels, TensorRT's engines, or the CPU; and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from edge_runtime.backends.cuda.settings import AUTO
from edge_runtime.backends.cuda.tensorrt import supported as engines
from edge_runtime.backends.cuda.tensorrt.library import Library, load_library
from edge_runtime.backends.cuda.trunk import supported as kernels
from edge_runtime.base.errors import ConfigError, DeviceError
from edge_runtime.base.spec import ModelSpec


class Choice(NamedTuple):
    """What computes the trunk.

    Attributes:
        name: "cuda", "tensorrt" or "cpu".
        why: in words.
        library: TensorRT, where that does.
    """

    name: str
    why: str
    library: Library | None = None


def choose_trunk(spec: ModelSpec, wanted: str, load: Callable[[], Library] = load_library) -> Choice:
    """Choose what computes a model's trunk.

    Args:
        spec: the model.
        wanted: one of `settings.TRUNK`.
        load: loads TensorRT, where it comes into question.

    Raises:
        ConfigError: what is wanted does not run the model; names the layer and the part.
        DeviceError: TensorRT is wanted and is not here.
    """
    if wanted == "cpu":
        return Choice("cpu", "asked for")
    if wanted == "tensorrt":
        if problem := engines.why_not(spec):
            raise _refused("TensorRT", problem)
        return Choice("tensorrt", "asked for", load())
    problem = kernels.why_not(spec)
    if not problem:
        return Choice("cuda", "its kernels know the model")
    if wanted != AUTO:
        raise _refused("the trunk on the GPU", problem)
    why = f"the kernels lack {problem}"
    try:
        lacking = engines.why_not(spec)
        return Choice("cpu", f"{why}; TensorRT: {lacking}") if lacking else Choice("tensorrt", why, load())
    except DeviceError as err:
        return Choice("cpu", f"{why}; {err}")


def _refused(what: str, problem: str) -> ConfigError:
    return ConfigError(f"cuda: {what} does not run this model: {problem}. Use --backend cuda:trunk=cpu, or auto.")
