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
        AssertionError: tokens or logits differ from the CPU's, or bits of two ways on the GPU.
    """
    streamed: dict[str, np.ndarray] = {}

    def agree(engine: Engine, way: str) -> np.ndarray:
        found = logits(engine)
        assert_close(found, want)
        assert tokens(engine) == said, f"{way}: other tokens"
        return found

    with checked_backend(lambda options: CudaBackend(options, open_gpu)):
        want, said = of_cpu(bundle)
        for kind in KINDS:
            if problems.get(kind):
                yield f"{kind} memory left out: {problems[kind]}"
                continue
            with opened(bundle, f"cuda:memory={kind},trunk=cuda", FEW) as engine:
                way = f"streamed through {kind} memory"
                streamed[way] = agree(engine, way)
            for other, bits in streamed.items():
                assert bits.tobytes() == streamed[way].tobytes(), f"{way}: other bits than {other}"
            yield way
        with opened(bundle, "cuda:trunk=cuda", ALL) as engine:
            make_all_resident(engine)
            agree(engine, "resident")  # routed on the GPU, whose exponentials round in their own way
        yield "resident"


def graphs(bundle: Path, open_gpu: Any, more_tokens: int) -> dict[str, Any]:
    """Run the resident demo as a graph and without one: the same bits; of both its speed, launches and waits a token.

    Raises:
        AssertionError: bits differ, or the host waits for layers though every expert is in memory.
    """
    bits, found, calls = [], dict[str, Any](), DriverCalls()
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
                assert waits < layers, f"{name}: the host waits {waits} times a token, for {layers} layers on the GPU"
    assert (bits[0] == bits[1]).all(), "a graph gives other bits than single launches"
    return found


def demo_engines(bundle: Path, open_gpu: Any, library: Library) -> Iterator[str]:
    """Run the demo's trunk as TensorRT engines; yield what agreed. Plans are built anew, and kept nowhere.

    Raises:
        AssertionError: tokens or logits differ.
    """
    with tempfile.TemporaryDirectory() as folder, cache_in(folder):
        made = CudaMaker(open_gpu, load_tensorrt=lambda: library)
        yield _trunk_agrees(bundle, made, "cuda:trunk=tensorrt", "trunk as engines")


def demo_on_provider(bundle: Path, open_gpu: Any, provider: Provider) -> Iterator[str]:
    """Run the demo's trunk on ONNX Runtime's CUDA provider; yield what agreed.

    Raises:
        AssertionError: tokens or logits differ.
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
    with checked_backend(make):
        want, said = of_cpu(bundle)
        with opened(bundle, backend, FEW) as engine:
            assert_close(logits(engine), want)
            assert tokens(engine) == said, f"{what}: other tokens"
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
