"""Where a model computes: backends by name. `base.py` says what a backend makes; one folder a backend.

A backend from elsewhere is registered by `register`, or found as an entry point of the group `hobbit_edge.backends`
whose name is the backend's and whose object is its `make`. See docs/adding-a-backend.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edge_runtime.base.errors import ConfigError, DeviceError, did_you_mean

if TYPE_CHECKING:
    from edge_runtime.backends.base import Backend, BackendOptions

    Make = Callable[[BackendOptions], Backend[Any]]

AUTO = "auto"
ENTRY_POINTS = "hobbit_edge.backends"


def _nothing_missing() -> str:
    return ""


class RegisteredBackend:
    """A backend that can be asked for by name. A plain class: every start of a command pays for making it.

    Args:
        make: builds it; loads nothing large.
        summary: what it is, for help.
        why_missing: says why this version or machine does not have it; "" if it does. Asked only when the backend is.
    """

    def __init__(self, make: Make, summary: str, why_missing: Callable[[], str] = _nothing_missing) -> None:
        self.make, self.summary, self.why_missing = make, summary, why_missing


def _cpu(options: BackendOptions) -> Backend[Any]:
    from edge_runtime.backends.cpu.backend import CpuBackend

    return CpuBackend(options)


def _no_cuda(options: BackendOptions) -> Backend[Any]:
    raise DeviceError(_why_no_cuda())


def _why_no_cuda() -> str:
    return "no CUDA backend in this version"


BACKENDS: dict[str, RegisteredBackend] = {
    "cpu": RegisteredBackend(_cpu, "native kernels and ONNX Runtime"),
    "cuda": RegisteredBackend(_no_cuda, "NVIDIA GPUs", _why_no_cuda),
}


def register(name: str, backend: RegisteredBackend) -> None:
    """Make a backend available by a name of its own.

    Raises:
        ConfigError: the name is taken.
    """
    if name in BACKENDS or name == AUTO:
        raise ConfigError(f"backend: {name!r} is registered already. Choose another name.")
    BACKENDS[name] = backend


def backend_named(name: str, where: str = "backend") -> RegisteredBackend:
    """Return the backend of a name, there or not.

    Args:
        name: as registered.
        where: the option it came from, for messages.

    Raises:
        ConfigError: there is none of that name.
        DeviceError: the package that offers it cannot be imported.
    """
    found = BACKENDS.get(name) or _entry_point(name)
    if found is None:
        known = [AUTO, *BACKENDS, *_installed()]
        raise ConfigError(f"{where}: expected one of {', '.join(known)}, got {name!r}.{did_you_mean(name, known)}")
    return found


def find_backend(name: str, where: str = "backend") -> RegisteredBackend:
    """Return the backend of a name. Another one is never taken silently.

    Raises:
        ConfigError: there is none of that name.
        DeviceError: this version or machine does not have it, or its package cannot be imported.
    """
    found = backend_named(name, where)
    if missing := found.why_missing():
        raise DeviceError(f"{where}: {missing}. Use --backend cpu or auto.")
    return found


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
