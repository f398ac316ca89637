"""What `make gpu-check` does with the demo bundle: the CPU's tokens in every way there is, graphs against none, engines."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from cuda.driver_calls import DriverCalls
from cuda.engines import ALL, FEW, assert_close, logits, make_all_resident, opened, tokens
from cuda.gpu_failures import Failures

from edge_runtime import Engine, SamplingParams, backends
from edge_runtime.backends.base import BackendOptions
from edge_runtime.backends.cuda.backend import CudaBackend
from edge_runtime.backends.cuda.blocks import KINDS
from edge_runtime.backends.cuda.gpu import Gpu
from edge_runtime.backends.cuda.onnx.provider import Provider
from edge_runtime.backends.cuda.tensorrt.library import Library


def demo(bundle: Path, open_gpu: Any, problems: Mapping[str, str]) -> Iterator[str]:
    """Run the demo on the CPU and on the GPU; yield what agreed.

    Args:
        bundle: the demo's.
        open_gpu: opens the GPU.
        problems: of kinds of memory this machine does not have.

    Raises:
        ChecksFailed: in the end, of ways whose tokens or logits differ from the CPU's, or bits from another way's.
    """
    streamed, failures = dict[str, np.ndarray](), Failures()
    with checked_backend(lambda options: CudaBackend(options, open_gpu)):
        of_cpu_alone = of_cpu(bundle)
        for kind in KINDS:
            if problems.get(kind):
                yield f"{kind} memory left out: {problems[kind]}"
                continue
            way = f"streamed through {kind} memory"
            with failures.kept(way):
                with opened(bundle, f"cuda:memory={kind},trunk=cuda", FEW) as engine:
                    streamed[way] = agree(engine, of_cpu_alone)
                for other, bits in streamed.items():
                    assert bits.tobytes() == streamed[way].tobytes(), f"other bits than {other}"
                yield way
        with failures.kept("resident"):
            with opened(bundle, "cuda:trunk=cuda", ALL) as engine:
                make_all_resident(engine)
                agree(engine, of_cpu_alone)  # routed on the GPU, whose exponentials round in their own way
            yield "resident"
    failures.finish()


def agree(engine: Engine, of_cpu_alone: tuple[np.ndarray, list[int]]) -> np.ndarray:
    """Compare logits and tokens with the CPU's; return the logits."""
    found = logits(engine)
    assert_close(found, of_cpu_alone[0])
    assert tokens(engine) == of_cpu_alone[1], "other tokens"
    return found


def graphs(bundle: Path, open_gpu: Any, more_tokens: int) -> dict[str, Any]:
    """Run the resident demo as a graph and without one: the same bits; of both its speed, launches and waits a token.

    Raises:
        ChecksFailed: bits differ, or the host waits for layers though every expert is in memory.
    """
    bits, found, calls, failures = [], dict[str, Any](), DriverCalls(), Failures()
    with checked_backend(lambda options: CudaBackend(options, calls.counting(open_gpu))):
        for name, graph in (("graph", "true"), ("single_launches", "false")):
            with opened(bundle, f"cuda:trunk=cuda,graph={graph}", ALL) as engine:
                make_all_resident(engine)
                bits.append(engine.logits(engine.tokenizer.encode("Once upon")[:4] * 2, chunk=1))
                params = SamplingParams(max_tokens=more_tokens, ignore_eos=True)
                ids = engine.tokenizer.encode("Once")[:1]
                calls.made.clear()
                timings = engine.generate(ids, params).timings
                found[name] = {"tok_s": timings["predicted_per_second"], **calls.a_token(more_tokens)}
                waits, layers = found[name]["waits_a_token"], len(engine.spec.sparse_layers)
                with failures.kept(name):
                    assert waits < layers, f"the host waits {waits} times a token, for {layers} layers on the GPU"
    with failures.kept("graph"):
        assert (bits[0] == bits[1]).all(), "other bits than single launches"
    failures.finish(found)
    return found


def demo_engines(bundle: Path, open_gpu: Any, library: Library) -> Iterator[str]:
    """Run the demo's trunk as TensorRT engines; yield what agreed. Plans are built anew, and kept nowhere.

    Raises:
        ChecksFailed: tokens or logits differ.
    """
    with tempfile.TemporaryDirectory() as folder, cache_in(folder):
        made = CudaMaker(open_gpu, load_tensorrt=lambda: library)
        yield _trunk_agrees(bundle, made, "cuda:trunk=tensorrt", "trunk as engines")


def demo_on_provider(bundle: Path, open_gpu: Any, provider: Provider) -> Iterator[str]:
    """Run the demo's trunk on ONNX Runtime's CUDA provider; yield what agreed.

    Raises:
        ChecksFailed: tokens or logits differ.
    """
    made = CudaMaker(open_gpu, try_onnx=lambda gpu: provider)
    yield _trunk_agrees(bundle, made, "cuda:trunk=onnx", "trunk on ONNX Runtime")


class CudaMaker:
    """Makes backends with some of their parts given."""

    def __init__(self, open_gpu: Any, **given: Any) -> None:
        self._open_gpu, self._given = open_gpu, given

    def __call__(self, options: BackendOptions) -> CudaBackend:
        return CudaBackend(options, self._open_gpu, **self._given)


def _trunk_agrees(bundle: Path, make: CudaMaker, backend: str, what: str) -> str:
    failures = Failures()
    with checked_backend(make):
        of_cpu_alone = of_cpu(bundle)
        with failures.kept(what), opened(bundle, backend, FEW) as engine:
            agree(engine, of_cpu_alone)
    failures.finish()
    return what


def of_cpu(bundle: Path) -> tuple[np.ndarray, list[int]]:
    """Logits and tokens of the CPU backend."""
    with opened(bundle, "cpu", ALL) as engine:
        return logits(engine), tokens(engine)


@contextmanager
def checked_backend(make: Callable[[BackendOptions], CudaBackend]) -> Iterator[None]:
    """`--backend cuda` is made so meanwhile."""
    real = backends.BACKENDS["cuda"]
    backends.BACKENDS["cuda"] = backends.RegisteredBackend(make, "to be checked", params=real.params)
    try:
        yield
    finally:
        backends.BACKENDS["cuda"] = real


@contextmanager
def cache_in(folder: str) -> Iterator[None]:
    """What is kept between runs lies in a folder meanwhile."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = folder
    try:
        yield
    finally:
        os.environ.pop("XDG_CACHE_HOME")
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


def make_gpu(make_driver: Any, folder: Path, compiler: Any) -> Any:
    """Return what opens the GPU for the engine."""
    return lambda index: Gpu(make_driver(), index, folder=folder, compiler=compiler)
