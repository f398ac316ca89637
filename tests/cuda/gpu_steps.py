"""What `make gpu-check` does beyond the kernels' own checks: kinds of memory, decode products, the demo bundle."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from cuda.engines import ALL, FEW, assert_close, logits, make_all_resident, opened, tokens

from edge_runtime import backends
from edge_runtime.backends.base import BackendOptions
from edge_runtime.backends.cuda.backend import CudaBackend
from edge_runtime.backends.cuda.blocks import Kind, can_read_into, make_block
from edge_runtime.backends.cuda.driver import Device, DeviceMemory, Event, Module, Stream
from edge_runtime.backends.cuda.gpu import Gpu
from edge_runtime.backends.cuda.launches import ExpertLaunches, Hidden
from edge_runtime.backends.cuda.structures import ACT_GROUP, GROUP, Pairs
from edge_runtime.backends.cuda.tensorrt.library import Library
from edge_runtime.backends.cuda.trunk.launches import DeviceMatrix, TrunkLaunches
from edge_runtime.base.spec import ExpertSpec

KINDS: tuple[Kind, ...] = ("registered", "pinned", "device")
INPUTS = 4096
MODELS = {"Qwen3-30B-A3B": (2048, 768, 8), "gpt-oss-20b": (2880, 2880, 4), "Mixtral-8x7B": (4096, 14336, 2)}
"""Hidden size, width of an expert, experts a token."""


def timed_ms(stream: Stream, run: Any, repeats: int) -> float:
    """Return the milliseconds of one run, by the GPU's clock; the first one does not count."""
    run()
    start, end = Event(stream.device, timed=True), Event(stream.device, timed=True)
    stream.record(start)
    for _ in range(repeats):
        run()
    stream.record(end)
    end.synchronize()
    found = end.ms_since(start) / repeats
    start.close()
    end.close()
    return found


def memory_kinds(device: Device, module: Module, rows: int, repeats: int = 5) -> dict[str, Any]:
    """Multiply int8 codes that lie in each kind of memory: the same numbers from each, and how fast they are read.

    Args:
        device: the GPU.
        module: the kernels.
        rows: of the matrix; a row is 4 KiB.
        repeats: runs that are timed.

    Raises:
        AssertionError: a kind gives other numbers than the CPU.
    """
    rng, stream, nbytes = np.random.default_rng(0), Stream(device), rows * INPUTS
    codes = rng.integers(0, 256, (rows, INPUTS), np.uint8)
    x, scales = rng.standard_normal((1, INPUTS)).astype(np.float32), np.ones((rows, INPUTS // 128), np.float32)
    want, launches, found = (codes.astype(np.float64) - 128) @ x[0], TrunkLaunches(module, stream), {}
    with DeviceMemory(device, x.nbytes) as at_x, DeviceMemory(device, scales.nbytes) as at_scales:
        at_x.write(x, stream)
        at_scales.write(scales, stream)
        for kind in KINDS:
            block, got = make_block(device, kind, nbytes), np.empty(rows, np.float32)
            if block.host is None:
                device.call("cuMemcpyHtoDAsync_v2", block.address, codes.ctypes.data, nbytes, stream.handle)
            else:
                ctypes.memmove(block.host, codes.ctypes.data, nbytes)
            matrix = DeviceMatrix(INPUTS, rows, block.address, 8, at_scales.address, 128)
            with DeviceMemory(device, got.nbytes) as y:
                ms = timed_ms(stream, lambda m=matrix, y=y: launches.linear(at_x.address, m, y.address, 1), repeats)
                y.read(got, stream)
                stream.synchronize()
            assert np.abs(got - want).max() <= 2e-5 * np.abs(want).max(), f"{kind} memory gives other numbers"
            reads = block.host is None or can_read_into(block.host, 4096)
            found[kind] = {"gb_s": round(nbytes / ms / 1e6, 2), "direct_reads": reads}
            block.close()
    stream.close()
    return found


def decode_products(device: Device, module: Module, gb_s: float, scale: int = 1, repeats: int = 20) -> dict[str, Any]:
    """Time one layer's experts of one token at 4 bits, for models' sizes, against the bandwidth measured.

    Args:
        device: the GPU.
        module: the kernels.
        gb_s: measured of device memory.
        scale: sizes are divided by it, for a CPU that plays a GPU.
        repeats: runs that are timed.
    """
    found = {}
    for name, (hidden, inter, top_k) in MODELS.items():
        d, i = (max(GROUP, n // scale // GROUP * GROUP) for n in (hidden, inter))
        nbytes, ms = layer_ms(device, module, (d, i, top_k), repeats)
        reached = nbytes / ms / 1e6
        found[name] = {"us": round(1000 * ms, 1), "gb_s": round(reached, 2), "of_measured": round(reached / gb_s, 3)}
    return found


def layer_ms(device: Device, module: Module, size: tuple[int, int, int], repeats: int) -> tuple[int, float]:
    """Return the bytes and the milliseconds of the experts of one token, all different, at 4 bits; numbers are zeros."""
    d, i, top_k = size
    planes = 3 * d * i // 4
    core = 64 + planes + 2 * i // 16 * (192 + d) + d // 16 * (192 + i)
    stream, launches = Stream(device), ExpertLaunches(module, d, top_k, ExpertSpec(i))
    sizes = [core * top_k, planes * top_k, d // GROUP * ACT_GROUP.itemsize, top_k * i // GROUP * ACT_GROUP.itemsize]
    memory = [DeviceMemory(device, n) for n in (*sizes, 4 * top_k * d, 32 * top_k, 4 * top_k, 4 * top_k)]
    first, second, x, h, y, table, slots, ids = memory
    for each in memory[:4]:
        each.fill(0, stream)
    rows, segments = np.arange(top_k, dtype=np.uint64), np.zeros((top_k, 4), np.uint64)
    segments[:, 0], segments[:, 1] = first.address + rows * core, second.address + rows * planes
    table.write(segments, stream)
    for each in (slots, ids):
        each.write(rows.astype(np.int32), stream)
    pairs, at = Pairs(table.address, slots.address, ids.address), Hidden(x.address, h.address, y.address)
    ms = timed_ms(stream, lambda: launches.run_pairs(stream, 4, pairs, top_k, at), repeats)
    for each in memory:
        each.close()
    stream.close()
    return (core + planes) * top_k, ms


def demo(bundle: Path, open_gpu: Any) -> Iterator[str]:
    """Run the demo on the CPU and on the GPU; yield what agreed.

    Raises:
        AssertionError: tokens or logits differ.
    """
    with checked_backend(lambda options: CudaBackend(options, open_gpu)):
        want, said = of_cpu(bundle)
        for kind in KINDS:
            with opened(bundle, f"cuda:memory={kind},trunk=cuda", FEW) as engine:
                assert_close(logits(engine), want)
                assert tokens(engine) == said, f"streamed through {kind} memory: other tokens"
            yield f"streamed through {kind} memory"
        bits = []
        for graph in ("true", "false"):
            with opened(bundle, f"cuda:trunk=cuda,graph={graph}", ALL) as engine:
                make_all_resident(engine)
                bits.append(engine.logits(engine.tokenizer.encode("Once upon")[:4] * 2, chunk=1))
                assert tokens(engine) == said, "resident: other tokens"
        assert (bits[0] == bits[1]).all(), "a graph gives other bits than single launches"
        yield "resident, as a graph and without"


def demo_engines(bundle: Path, open_gpu: Any, library: Library) -> Iterator[str]:
    """Run the demo's trunk as TensorRT engines; yield what agreed. Plans are built anew, and kept nowhere.

    Raises:
        AssertionError: tokens or logits differ.
    """
    made = checked_backend(lambda options: CudaBackend(options, open_gpu, lambda: library))
    with tempfile.TemporaryDirectory() as folder, cache_in(folder), made:
        want, said = of_cpu(bundle)
        with opened(bundle, "cuda:trunk=tensorrt", FEW) as engine:
            assert_close(logits(engine), want)
            assert tokens(engine) == said, "a trunk of engines: other tokens"
        yield "trunk as engines"


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
