"""Which trunk runs on the host: the native one where it computes all of a model, else ONNX Runtime."""

from __future__ import annotations

from edge_runtime.backends.base import BackendOptions
from edge_runtime.backends.cpu.trunk.native.supported import why_not
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import ModelSpec


class TrunkChoice:
    """The choice for a backend, shared by all its parts.

    It depends on the model and on what was asked for alone, so that a token is computed alike in every pass.

    Args:
        options: of the backend.

    Attributes:
        threads: that compute.
        is_native: what was chosen; False before a model is known.
    """

    def __init__(self, options: BackendOptions) -> None:
        self.threads, self._asked, self.is_native = options.threads, options.trunk, False

    def choose(self, spec: ModelSpec) -> None:
        """Choose for a model.

        Raises:
            ConfigError: the native trunk was asked for and does not compute all of it.
        """
        problem = "asked for" if self._asked == "onnx" else why_not(spec)
        if problem and self._asked == "native":
            raise ConfigError(f"trunk: the native one does not run this model: {problem}. Use --trunk auto or onnx.")
        self.is_native = not problem
