"""Stands in for TensorRT's Python bindings: what it "builds" is the model itself, and ONNX Runtime runs it.

It has the interface our code uses and no more; test_tensorrt_bindings.py holds that against the real bindings of both
versions. Inputs and outputs lie at addresses of the fake driver's, which copies them; a run waits for its stream.
"""

from __future__ import annotations

import ctypes
import io
import json
import tempfile
import zipfile
from enum import IntEnum
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime

RELEASES = ("10.3.0.30", "10.16.2.10")
"""Of JetPack 6.2 and 7.2."""
TENSORRT = "cuda:trunk=tensorrt"
_NUMBERS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...
    def phase_finish(self, phase_name: str) -> None: ...
    def step_complete(self, phase_name: str, step: int) -> bool:
        return True


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class MemoryPoolType(IntEnum):
    WORKSPACE = 0


class BuilderFlag(IntEnum):
    TF32 = 7


class TensorIOMode(IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(IntEnum):
    USER_MANAGED = 2


class ParserError:
    def __init__(self, operator: str, text: str) -> None:
        self._operator, self._text = operator, text

    def node_operator(self) -> str:
        return self._operator

    def desc(self) -> str:
        return self._text


class INetworkDefinition:
    def __init__(self) -> None:
        self.path: Path | None = None


class OnnxParser:
    refuses = ""
    """An operator it does not know; set by tests."""

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._errors = network, list[ParserError]()

    def parse_from_file(self, model: str) -> bool:
        onnx.checker.check_model(model)
        graph = onnx.load(model, load_external_data=False).graph
        self._errors = [ParserError(n.op_type, "no importer") for n in graph.node if n.op_type == self.refuses]
        self._network.path = Path(model)
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        assert all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True))
        self.shapes[input] = [list(min), list(opt), list(max)]


class ITimingCache:
    def __init__(self, known: bytes) -> None:
        self.known = known

    def serialize(self) -> bytes:
        return b"timed" + self.known[-64:]


class IBuilderConfig:
    progress_monitor: IProgressMonitor | None = None

    def __init__(self) -> None:
        self.profiles: list[IOptimizationProfile] = []
        self.limits: dict[int, int] = {}
        self.cleared: set[int] = set()
        self._cache: ITimingCache | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self.limits[pool] = pool_size

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.cleared.add(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        return None if serialized_timing_cache == b"broken" else ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache:
        assert self._cache is not None
        return self._cache


class Builder:
    fails = False
    """Builds nothing; set by tests."""
    lacks = ""
    """An operator it has no kernel for; set by tests."""
    wrong = ""
    """Name of a graph whose engine computes something else; set by tests."""
    parts = 64
    """Of the workspace that an engine works in one; set by tests."""
    configs: ClassVar[list[IBuilderConfig]] = []

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> INetworkDefinition:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        self.configs.append(IBuilderConfig())
        return self.configs[-1]

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        if self.fails:
            self._logger.log(Severity.ERROR, "no kernel fits the workspace")
            return None
        assert network.path is not None
        graph = onnx.load(str(network.path), load_external_data=False).graph
        if self.lacks in [node.op_type for node in graph.node]:
            self._logger.log(Severity.ERROR, f"no implementation for {self.lacks}")
            return None
        if config.progress_monitor is not None:
            config.progress_monitor.phase_start("tactics", None, 1)
            config.progress_monitor.step_complete("tactics", 0)
            config.progress_monitor.phase_finish("tactics")
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w") as file:
            for path in (network.path, network.path.with_suffix(".weights")):
                file.write(path, path.name)
            file.writestr("profiles.json", json.dumps([profile.shapes for profile in config.profiles]))
            file.writestr("scratch", str(config.limits[MemoryPoolType.WORKSPACE] // self.parts))
            if network.path.stem == self.wrong:
                file.writestr("wrong", "")
        return whole.getvalue()


class ICudaEngine:
    def __init__(self, plan: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(io.BytesIO(plan)) as file:
            file.extractall(folder)
            self.profiles = json.loads(Path(folder, "profiles.json").read_text())
            self.device_memory_size_v2 = int(Path(folder, "scratch").read_text())
            self.sign = -1 if Path(folder, "wrong").exists() else 1
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            options.intra_op_num_threads = 1
            self.session = onnxruntime.InferenceSession(str(next(Path(folder).glob("*.onnx"))), options)
        self.inputs = {each.name: each.type for each in self.session.get_inputs()}
        self.outputs = {each.name: each.type for each in self.session.get_outputs()}

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return (
            TensorIOMode.INPUT
            if name in self.inputs
            else TensorIOMode.OUTPUT
            if name in self.outputs
            else TensorIOMode.NONE
        )

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> IExecutionContext:
        return IExecutionContext(self)


class IExecutionContext:
    driver: ctypes.CDLL
    """The fake driver; set by tests."""
    runs = 0

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine, self._profile = engine, -1
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._at: dict[str, int] = {}
        self._has_memory = False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile = profile_index
        return profile_index < len(self._engine.profiles)

    def set_device_memory(self, memory: int, size: int) -> None:
        self._has_memory = memory % 256 == 0 and size >= self._engine.device_memory_size_v2

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.profiles[self._profile][name]
        self._shapes[name] = tuple(shape)
        return all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._at[name] = memory
        return name in self._engine.inputs or name in self._engine.outputs

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine, stream = self._engine, stream_handle
        if not self._has_memory or self._at.keys() != {*engine.inputs, *engine.outputs}:
            return False
        feeds = {}
        for name, kind in engine.inputs.items():
            array = np.empty(self._shapes[name], _NUMBERS[kind])
            self._copy("cuMemcpyDtoHAsync_v2", array.ctypes.data, self._at[name], array.nbytes, stream)
            feeds[name] = array
        self._call("cuStreamSynchronize", stream)
        kept = []
        for name, array in zip(engine.outputs, engine.session.run(list(engine.outputs), feeds), strict=True):
            whole = np.ascontiguousarray(engine.sign * array)
            assert whole.nbytes == np.dtype(_NUMBERS[engine.outputs[name]]).itemsize * prod(whole.shape)
            self._copy("cuMemcpyHtoDAsync_v2", self._at[name], whole.ctypes.data, whole.nbytes, stream)
            kept.append(whole)
        self._call("cuStreamSynchronize", stream)
        IExecutionContext.runs += 1
        return True

    def _copy(self, name: str, to: int, source: int, nbytes: int, stream: int) -> None:
        self._call(name, to, source, nbytes, stream)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self.driver, name)(*arguments)
        assert code == 0, f"{name}: {code}"


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        pass

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        return ICudaEngine(serialized_engine) if serialized_engine.startswith(b"PK") else None


OFFERED = (
    ILogger, IProgressMonitor, NetworkDefinitionCreationFlag, MemoryPoolType, BuilderFlag, TensorIOMode,
    ExecutionContextAllocationStrategy, ParserError, INetworkDefinition, OnnxParser, IOptimizationProfile, ITimingCache,
    IBuilderConfig, Builder, ICudaEngine, IExecutionContext, Runtime,
)  # fmt: skip
OURS = {
    "OnnxParser": {"refuses"},
    "Builder": {"fails", "lacks", "wrong", "parts", "configs"},
    "IExecutionContext": {"driver", "runs"},
}
"""What the fake has besides, for tests."""
ATTRIBUTES = {"ICudaEngine": {"device_memory_size_v2"}, "IBuilderConfig": {"progress_monitor"}}


def make_module(version: str) -> ModuleType:
    """The bindings of a version."""
    module = ModuleType("tensorrt")
    module.__dict__.update({"__version__": version} | {each.__name__: each for each in OFFERED})
    return module
