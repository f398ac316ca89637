"""Stands in for an ONNX Runtime with the CUDA provider: ONNX Runtime's CPU provider computes what it "computes"."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime

from edge_runtime.backends.cuda.onnx.provider import CUDA, HOST


class FakeOnnxRuntime:
    """What our code uses of the module.

    Args:
        listed: whether the package was built with the provider.
        loads: whether its libraries are here.
        lacks: the operator it has no kernel for: a session is made, and the CPU computes that, unless told otherwise.
        wrong: the operator that it computes wrongly.
        fails: the operator that fails when it runs.

    Attributes:
        runs: runs of sessions, by provider.
        shrunk: runs that gave back what they took of the GPU.
    """

    __version__ = "1.99.0"
    capi, SessionOptions = onnxruntime.capi, onnxruntime.SessionOptions

    def __init__(
        self, *, listed: bool = True, loads: bool = True, lacks: str = "", wrong: str = "", fails: str = ""
    ) -> None:
        self.listed, self.loads, self.lacks, self.wrong, self.fails = listed, loads, lacks, wrong, fails
        self.runs: Counter[str] = Counter()
        self.shrunk = 0

    def get_available_providers(self) -> list[str]:
        return [CUDA] * self.listed + [HOST]

    def RunOptions(self) -> Any:
        return SimpleNamespace(entries={}, add_run_config_entry=lambda key, value: None)

    def InferenceSession(
        self, model: str | bytes, options: Any = None, *, providers: list[Any], enable_fallback: int = 1
    ) -> Any:
        if providers == [HOST]:
            return _HostSession(self, model, options)
        ((name, given),) = providers
        assert name == CUDA
        assert (given["use_tf32"], given["device_id"]) == (0, 0), "what chooses experts is not rounded"
        assert not enable_fallback, "after an error of the GPU the CPU would go on"
        return _GpuSession(self, model, options)


class _HostSession:
    name = HOST

    def __init__(self, module: FakeOnnxRuntime, model: str | bytes, options: Any) -> None:
        self.module, self.session = module, onnxruntime.InferenceSession(model, options, providers=[HOST])

    def get_providers(self) -> list[str]:
        return [HOST]

    def get_inputs(self) -> Any:
        return self.session.get_inputs()

    def io_binding(self) -> Any:
        return self.session.io_binding()

    def run_with_iobinding(self, binding: Any) -> None:
        self.module.runs[self.name] += 1
        self.session.run_with_iobinding(binding)

    def run(self, names: Any, feeds: dict[str, np.ndarray], options: Any = None) -> list[np.ndarray]:
        self.module.runs[self.name] += 1
        return self.session.run(names, feeds)


class _GpuSession:
    """Has no binding by address: the real one copies an input when it is bound, and would keep old values."""

    name = CUDA

    def __init__(self, module: FakeOnnxRuntime, model: str | bytes, options: Any) -> None:
        self.module = module
        self.ops = {node.op_type for node in _graph_of(model).node}
        if module.lacks in self.ops and _is_alone(options):
            raise module.capi.onnxruntime_pybind11_state.Fail(
                "This session contains graph nodes that are assigned to the default CPU EP, but fallback to CPU EP has "
                "been explicitly disabled by the user."
            )
        plain = onnxruntime.SessionOptions()
        plain.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, plain, providers=[HOST])

    def get_providers(self) -> list[str]:
        return [CUDA, HOST] if self.module.loads else [HOST]

    def get_inputs(self) -> Any:
        return self.session.get_inputs()

    def run(self, names: Any, feeds: dict[str, np.ndarray], options: Any = None) -> list[np.ndarray]:
        if self.module.fails in self.ops:
            raise self.module.capi.onnxruntime_pybind11_state.Fail(
                "CUDA error cudaErrorNoKernelImageForDevice: no kernel image is available for execution on the device"
            )
        self.module.runs[self.name] += 1
        self.module.shrunk += options is not None
        found = self.session.run(names, feeds)
        return [each * np.float32(1.001) for each in found] if self.module.wrong in self.ops else found


def _graph_of(model: str | bytes) -> Any:
    load = onnx.load_model_from_string if isinstance(model, bytes) else onnx.load
    return load(model, **({} if isinstance(model, bytes) else {"load_external_data": False})).graph


def _is_alone(options: Any) -> bool:
    try:
        return options is not None and options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    except RuntimeError:  # it was not set
        return False
