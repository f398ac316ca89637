"""Where a model computes: backends by name. `base.py` says what a backend makes; one folder a backend.

A backend from elsewhere is registered by `register`, or found as an entry point of the group `hobbit_edge.backends`
whose name is the backend's and whose object is its `make`. See docs/adding-a-backend.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edge_runtime.base.errors import ConfigError, DeviceError, did_you_mean

if TYPE_CHECKING:
    from edge_runtime.backends.base import Backend, BackendOptions
    from edge_runtime.backends.memory import MemorySpace
    from edge_runtime.base.params import Param

    Make = Callable[[BackendOptions], Backend[Any]]

AUTO = "auto"
ENTRY_POINTS = "hobbit_edge.backends"


def _nothing_missing() -> str:
    return ""


def _nothing_lacking(settings: Mapping[str, Any]) -> str:
    return ""


def _no_params() -> Mapping[str, Param]:
    return {}


class RegisteredBackend:
    """A backend that can be asked for by name. A plain class: every start of a command pays for making it.

    Args:
        make: builds it; loads nothing large.
        summary: what it is, for help.
        why_missing: says why this version or machine does not have it; "" if it does. Asked only when the backend is.
        params: gives the settings that may follow its name, as ``cuda:memory=device``; asked only where some do.
        why_passed_over: says why `auto` does not take it on a machine that has its hardware; "" if it has not.
        why_lacking: says which library that settings ask for is missing, where the backend itself is there; "" if none.
        is_on_gpu: whether it computes on a GPU.
    """

    def __init__(
        self,
        make: Make,
        summary: str,
        why_missing: Callable[[], str] = _nothing_missing,
        params: Callable[[], Mapping[str, Param]] = _no_params,
        why_passed_over: Callable[[], str] = _nothing_missing,
        why_lacking: Callable[[Mapping[str, Any]], str] = _nothing_lacking,
        is_on_gpu: bool = False,
    ) -> None:
        self.make, self.summary, self.why_missing, self.params = make, summary, why_missing, params
        self.why_passed_over, self.why_lacking, self.is_on_gpu = why_passed_over, why_lacking, is_on_gpu


def _cpu(options: BackendOptions) -> Backend[Any]:
    from edge_runtime.backends.cpu.backend import CpuBackend

    return CpuBackend(options)


def _cuda(options: BackendOptions) -> Backend[Any]:
    from edge_runtime.backends.cuda.backend import CudaBackend

    return CudaBackend(options)


def _why_no_cuda() -> str:
    from edge_runtime.backends.cuda.presence import why_missing

    return why_missing()


def _why_cuda_is_passed_over() -> str:
    from edge_runtime.backends.cuda.presence import why_passed_over

    return why_passed_over()


def _what_cuda_lacks(settings: Mapping[str, Any]) -> str:
    from edge_runtime.backends.cuda.presence import why_lacking

    return why_lacking(settings)


def _params_of_cuda() -> Mapping[str, Param]:
    from edge_runtime.backends.cuda.settings import PARAMS

    return PARAMS


BACKENDS: dict[str, RegisteredBackend] = {
    "cpu": RegisteredBackend(_cpu, "native kernels and ONNX Runtime"),
    "cuda": RegisteredBackend(
        _cuda,
        "an NVIDIA GPU",
        _why_no_cuda,
        _params_of_cuda,
        _why_cuda_is_passed_over,
        _what_cuda_lacks,
        is_on_gpu=True,
    ),
}


def register(name: str, backend: RegisteredBackend) -> None:
    """Make a backend available by a name of its own.

    Raises:
        ConfigError: the name is taken.
    """
    if name in BACKENDS or name == AUTO:
        raise ConfigError(f"backend: {name!r} is registered already. Choose another name.")
    BACKENDS[name] = backend


def backend_named(text: str, where: str = "backend") -> tuple[RegisteredBackend, dict[str, Any]]:
    """Return the backend of a name, there or not, and the settings that follow the name.

    Args:
        text: the name as registered, or ``name:param=value,...``.
        where: the option it came from, for messages.

    Raises:
        ConfigError: there is none of that name, or it has no such setting.
        DeviceError: the package that offers it cannot be imported.
    """
    name, _, settings = text.partition(":")
    found = BACKENDS.get(name) or _entry_point(name)
    if found is None:
        known = [AUTO, *BACKENDS, *_installed()]
        raise ConfigError(f"{where}: expected one of {', '.join(known)}, got {name!r}.{did_you_mean(name, known)}")
    if not settings:
        return found, {}
    from edge_runtime.base.params import parse_params

    return found, parse_params(settings, found.params(), f"{where} {name!r}")


def find_backend(text: str, where: str = "backend") -> tuple[RegisteredBackend, dict[str, Any]]:
    """Return the backend of a name, and the settings that follow the name. Another one is never taken silently.

    Raises:
        ConfigError: there is none of that name, or it has no such setting.
        DeviceError: this version or machine does not have it, or its package cannot be imported.
    """
    found, settings = backend_named(text, where)
    if missing := found.why_missing():
        raise DeviceError(f"{where}: {missing} Use --backend cpu or auto.")
    return found, settings


def passed_over(used: str) -> dict[str, str]:
    """Return why backends whose hardware this machine has are not used, by name.

    Args:
        used: the backend that is.
    """
    reasons = {name: found.why_passed_over() for name, found in BACKENDS.items() if name != used}
    return {name: why for name, why in reasons.items() if why}


def host_space() -> MemorySpace:
    """Return the host's own address space: of replays, which compute nothing, and of probes that read into memory."""
    from edge_runtime.backends.cpu.space import HostSpace

    return HostSpace()


def _installed() -> list[str]:
    """Names of the backends that installed packages offer."""
    from importlib.metadata import entry_points

    return sorted({found.name for found in entry_points(group=ENTRY_POINTS)} - {*BACKENDS})


def _entry_point(name: str) -> RegisteredBackend | None:
    """A backend that an installed package offers; looked for only when its name was asked for."""
    from importlib.metadata import entry_points

    for found in entry_points(group=ENTRY_POINTS, name=name):
        try:
            return RegisteredBackend(found.load(), found.value)
        except (ImportError, AttributeError) as err:
            raise DeviceError(
                f"backend {name!r}: {found.value} cannot be imported: {err}. Reinstall its package."
            ) from err
    return None
