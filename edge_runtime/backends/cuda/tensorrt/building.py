"""Builds a plan of a lowered graph: strongly typed, its workspace under a ceiling, with progress and a timing cache.

The module of the bindings is handed in. TensorRT for RTX has nearly the same interface and builds without a GPU: with
it the same code makes plans where there is none.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edge_runtime.backends.cuda.cubins import cache_folder
from edge_runtime.backends.cuda.tensorrt.graph import Lowered
from edge_runtime.backends.cuda.tensorrt.library import make_logger
from edge_runtime.base.errors import DeviceError

_LOG = logging.getLogger(__name__)
Progress = Callable[[str, str, int, int], None]
"""Told the part, the phase, the step that is done and how many there are."""


class Range(NamedTuple):
    """Sizes a profile is for: of tokens, least, usual and most; and of the cache, which does not vary."""

    tokens: tuple[int, int, int]
    slots: int

    def shapes(self, dims: Sequence[int | str]) -> list[tuple[int, ...]]:
        """Return least, usual and most shape of an input."""
        return [tuple(self._size(dim, tokens) for dim in dims) for tokens in self.tokens]

    def _size(self, dim: int | str, tokens: int) -> int:
        if isinstance(dim, int):
            return dim
        return {"T": tokens, "S": self.slots, "S_plus_T": self.slots + tokens}[dim]


def profiles_for(chunk: int, slots: int) -> list[Range]:
    """Return a profile for single tokens and, where chunks may have more, one for those."""
    one = Range((1, 1, 1), slots)
    return [one] if chunk == 1 else [one, Range((2, chunk, chunk), slots)]


class PlanBuilder:
    """Builds plans one after the other.

    Args:
        module: bindings of TensorRT.
        workspace_bytes: most memory the builder may use for trying out kernels, and an engine for its work.
        timing_cache: file of what was timed before; read, and written after each plan. None: none is kept.
        progress: told what is being done.
        configure: sets what is particular to a module.
    """

    def __init__(
        self, module: Any, workspace_bytes: int, *, timing_cache: Path | None = None, progress: Progress | None = None,
        configure: Callable[[Any], None] | None = None,
    ) -> None:  # fmt: skip
        self._trt, self._workspace = module, workspace_bytes
        self._timing, self._progress, self._configure = timing_cache, progress, configure
        self._logger = make_logger(module)
        self._builder = module.Builder(self._logger)
        if self._builder is None:
            raise DeviceError(f"TensorRT {module.__version__}: no builder could be made. Is its library installed?")

    def build(self, low: Lowered, path: Path, profiles: Sequence[Range]) -> bytes:
        """Return the plan of a graph.

        Args:
            low: the graph.
            path: where `low.write` wrote it.
            profiles: sizes it is built for.

        Raises:
            DeviceError: the parser refuses the graph, or no plan could be built: names the node and the reason.
        """
        trt = self._trt
        network = self._builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        self._parse(network, low.name, path)
        config = self._config(low.name)
        for each in profiles:
            profile = self._builder.create_optimization_profile()
            for name, value in low.inputs.items():
                profile.set_shape(name, *each.shapes(value.dims))
            config.add_optimization_profile(profile)
        self._logger.errors = []
        cache = self._read_timings(config)
        plan = self._builder.build_serialized_network(network, config)
        if plan is None:
            why = "; ".join(self._logger.errors) or "it says nothing"
            raise DeviceError(
                f"TensorRT {trt.__version__} cannot build {low.name}: {why}. Use --backend cuda:trunk=cpu."
            )
        if cache is not None:
            self._write_timings(config)
        return bytes(plan)

    def _parse(self, network: Any, name: str, path: Path) -> None:
        parser = self._trt.OnnxParser(network, self._logger)
        if parser.parse_from_file(str(path)):
            return
        found = [parser.get_error(i) for i in range(parser.num_errors)]
        said = "; ".join(f"{each.node_operator()}: {each.desc()[:200]}" for each in found) or "it says nothing"
        raise DeviceError(
            f"TensorRT {self._trt.__version__} does not take {name}: {said}. Use --backend cuda:trunk=cpu."
        )

    def _config(self, part: str) -> Any:
        trt, config = self._trt, self._builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self._workspace)
        config.clear_flag(trt.BuilderFlag.TF32)  # products in float32 choose experts: they are not to be rounded
        if self._progress is not None:
            config.progress_monitor = _make_monitor(trt, part, self._progress)
        if self._configure is not None:
            self._configure(config)
        return config

    def _read_timings(self, config: Any) -> Any:
        if self._timing is None:
            return None
        try:
            known = self._timing.read_bytes()
        except OSError:
            known = b""
        cache = config.create_timing_cache(known)
        if cache is None or not config.set_timing_cache(cache, False):
            cache = config.create_timing_cache(b"")  # another version's, or damaged
            config.set_timing_cache(cache, False)
        return cache

    def _write_timings(self, config: Any) -> None:
        assert self._timing is not None
        part = self._timing.with_name(f"{self._timing.name}.{os.getpid()}.part")  # others may build as well
        try:
            self._timing.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            part.write_bytes(bytes(config.get_timing_cache().serialize()))
            part.replace(self._timing)
        except OSError as err:
            _LOG.warning("tensorrt: timings cannot be kept in %s: %s", self._timing, err.strerror)


def _make_monitor(trt: Any, part: str, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(part, phase_name, step + 1, self._steps.get(phase_name, 0))
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()


def make_builder(module: Any, workspace_bytes: int) -> PlanBuilder:
    """Return what builds plans on this device; timings are kept beside the plans."""
    return PlanBuilder(module, workspace_bytes, timing_cache=plan_folder() / "timings", progress=_log_progress)


def plan_folder() -> Path:
    """Where plans are kept: beside compiled kernels."""
    return cache_folder().parent / "engines"


def _log_progress(part: str, phase: str, step: int, steps: int) -> None:
    _LOG.info("tensorrt: %s: %s %d of %d", part, phase, step, steps)
