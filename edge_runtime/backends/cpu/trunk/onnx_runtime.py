"""ONNX Runtime: its session options, loading of graphs, and its errors in the words of the engine.

The only module that imports onnxruntime, and only when a trunk is made or its version is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge_runtime.backends.cpu.trunk.file_pages import drop_cached_pages
from edge_runtime.backends.cpu.trunk.graph_check import read_checked
from edge_runtime.backends.cpu.trunk.memory import loaded_bytes
from edge_runtime.backends.cpu.trunk.signature import Signature
from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import BundleError, DeviceError
from edge_runtime.bundle.part_names import trunk_file

GraphKind = Literal["layer", "shared", "head", "routers"]


class OnnxRuntime:
    """Loads and runs the graphs of a bundle.

    Args:
        bundle_path: directory of a bundle whose parts were checked.
        threads: threads a graph may use, the caller's included.
        module: ONNX Runtime; imported if left out.

    Attributes:
        module: ONNX Runtime.
        weight_bytes: bytes of memory the loaded graphs take, from the plan's formula; the trunk adds its routers.

    Raises:
        DeviceError: ONNX Runtime is not installed.
    """

    def __init__(self, bundle_path: Path, threads: int, module: Any = None) -> None:
        self.module = module or import_onnxruntime()
        self._errors = errors_of(self.module)
        self._bundle_path = bundle_path
        self._options = self._make_options(threads)
        self.weight_bytes = 0

    def _make_options(self, threads: int) -> Any:
        options = self.module.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # an arena keeps the largest prefill's scratch for ever, once per session
        options.log_severity_level = 3
        # between the products of one graph a thread is needed again at once, and waking it costs as much as a product;
        # between graphs the cores belong to the experts
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        if 1 < threads <= len(processors):
            # a thread that wakes up on the caller's processor spins there instead of the caller; numbers start at 1
            own = ";".join(str(processor + 1) for processor in processors[1:threads])
            options.add_session_config_entry("session.intra_op_thread_affinities", own)
        return options

    def load(self, part: str, signature: Signature, *, on_host: bool = False) -> Any:
        """Create the session of a graph and let go of its files' pages.

        Args:
            part: name of the graph.
            signature: what it has to have.
            on_host: its inputs are large and change; it stays with the CPU, whatever runs the others.

        Raises:
            BundleError: the graph cannot be read, is refused, or does not have the signature.
        """
        path = self._bundle_path / part
        read_checked(path, part, signature)
        try:
            session = self._open(path, on_host)
        except self._errors as err:
            raise BundleError(
                f"{part}: ONNX Runtime {self.module.__version__} refuses the graph: {first_line(err)}. "
                "Export the bundle again, or install the ONNX Runtime version this package asks for."
            ) from err
        files = [file for file in (path, path.with_suffix(".data")) if file.exists()]
        graph_bytes, *data_bytes = (file.stat().st_size for file in files)
        self.weight_bytes += loaded_bytes(sum(data_bytes), graph_bytes, 1)
        for file in files:
            drop_cached_pages(file)
        return session

    def _open(self, path: Path, on_host: bool) -> Any:
        """Create a session."""
        return self.module.InferenceSession(str(path), self._options, providers=["CPUExecutionProvider"])

    def bind(self, session: Any, inputs: Mapping[str, F32], outputs: Mapping[str, F32]) -> Any:
        """Bind a graph to contiguous float32 arrays, kept alive by whoever calls; their values may change."""
        binding = session.io_binding()
        for name, array in as_declared(session, inputs).items():
            bind_array(binding.bind_input, name, array)
        for name, array in outputs.items():
            bind_array(binding.bind_output, name, array)
        return binding

    def run(self, session: Any, binding: Any, kind: GraphKind, layer_idx: int) -> None:
        """Run a graph over bound arrays.

        Raises:
            DeviceError: it failed.
        """
        try:
            self._execute(session, binding)
        except self._errors as err:
            raise DeviceError(f"{trunk_file(kind, layer_idx)}: ONNX Runtime failed: {first_line(err)}") from err

    def _execute(self, session: Any, binding: Any) -> None:
        session.run_with_iobinding(binding)


def as_declared(session: Any, inputs: Mapping[str, F32]) -> dict[str, F32]:
    """Return inputs with as many dims as a graph declares: the oldest builds put two of 1 before rotary angles."""
    dims = {each.name: len(each.shape) for each in session.get_inputs()}
    return {name: array.reshape((1,) * (dims[name] - array.ndim) + array.shape) for name, array in inputs.items()}


def bind_array(bind: Callable[..., None], name: str, array: F32) -> None:
    """Bind a contiguous float32 array by address; whoever calls keeps it alive."""
    assert array.flags.c_contiguous
    bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)


def import_onnxruntime() -> Any:
    """Import ONNX Runtime.

    Raises:
        DeviceError: it is not installed.
    """
    # unless told so before the import, it reports to its vendor and writes a device id under the home folder
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as err:
        raise DeviceError(
            f"trunk: ONNX Runtime cannot be imported: {err}. Install it: pip install onnxruntime"
        ) from err
    return onnxruntime


def errors_of(module: Any) -> tuple[type[Exception], ...]:
    """Return what ONNX Runtime raises."""
    found = vars(module.capi.onnxruntime_pybind11_state).values()
    own = [kind for kind in found if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError)


def library() -> str:
    """Return name and version of what computes the graphs.

    Raises:
        DeviceError: ONNX Runtime is not installed.
    """
    return f"onnxruntime-{import_onnxruntime().__version__}"


def first_line(err: Exception) -> str:
    """Return what an error says, short."""
    return (str(err).splitlines() or [type(err).__name__])[0][:300]
