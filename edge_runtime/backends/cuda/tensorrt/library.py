"""NVIDIA's TensorRT package: whether it is here, which lowering it takes, and its log in ours."""

from __future__ import annotations

import importlib
import logging
from typing import Any, NamedTuple

from edge_runtime.backends.cuda.tensorrt.allow_list import Version, version_for, versions
from edge_runtime.base.errors import DeviceError

_LOG = logging.getLogger(__name__)
_KEPT = 5


class Library(NamedTuple):
    """TensorRT.

    Attributes:
        module: its Python bindings, or what stands in for them in a test.
        version: the lowering it takes.
    """

    module: Any
    version: Version

    @property
    def name(self) -> str:
        """Name and version of the library."""
        return f"tensorrt-{self.module.__version__}"


def load_library(name: str = "tensorrt") -> Library:
    """Import TensorRT.

    Args:
        name: of the module.

    Raises:
        DeviceError: it is not here, or of a version without a lowering; says how to get one.
    """
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as err:  # a library it needs may be missing: libnvdla_compiler.so in a container
        raise DeviceError(
            f"TensorRT cannot be imported: {err}. JetPack brings it: apt-get install python3-libnvinfer, and a virtual "
            "environment made with --system-site-packages."
        ) from err
    found = version_for(str(module.__version__))
    if found is None:
        raise DeviceError(
            f"TensorRT {module.__version__}: there are lowerings for {', '.join(versions())} and later 10.x. "
            "Install the one of your JetPack."
        )
    return Library(module, found)


def make_logger(module: Any) -> Any:
    """Return a logger for TensorRT that writes to ours, and keeps its last errors in `errors`."""

    class Logger(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            is_error = severity <= module.ILogger.Severity.ERROR
            if is_error:
                self.errors = [*self.errors, message[:300]][-_KEPT:]
            level = logging.ERROR if is_error else logging.DEBUG
            _LOG.log(level, "tensorrt: %s", message[:1000])

    return Logger()
