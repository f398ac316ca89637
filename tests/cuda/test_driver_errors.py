"""Every call of the driver layer is checked: an error names the call, the code and the likely way out."""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import pytest
from cuda.bench import Bench, make_case, run_pairs

from edge_runtime.backends.cuda.driver import (
    CudaError,
    CudaMemoryError,
    Device,
    DeviceMemory,
    Driver,
    Event,
    Module,
    PinnedMemory,
    RegisteredMemory,
    Stream,
)
from edge_runtime.backends.cuda.driver.library import FUNCTIONS
from edge_runtime.backends.cuda.launches import quantize
from edge_runtime.backends.cuda.nvrtc import Nvrtc
from edge_runtime.backends.cuda.sources import FOLDER, read_source
from edge_runtime.base.errors import DeviceError
from edge_runtime.base.spec import ExpertSpec

PAGE = mmap.PAGESIZE
PACKAGE = FOLDER.parent


def test_out_of_memory_is_named_and_leaves_the_rest_usable(bench: Bench):
    bench.fake.fake_device_bytes(1 << 20)
    with pytest.raises(
        CudaMemoryError, match=r"cuMemAlloc_v2 failed .* \(2\) for 2\.00 MiB of device memory\. Lower --memory"
    ):
        DeviceMemory(bench.device, 2 << 20)
    bench.fake.fake_fail(b"cuMemHostAlloc", 2, 0)
    with pytest.raises(CudaMemoryError, match="for 64 B of pinned memory"):
        PinnedMemory(bench.device, 64)
    bench.fake.fake_device_bytes(1 << 40)
    run_pairs(bench, make_case(32, ExpertSpec(32), 4, seed=1))


def test_a_refused_launch_names_the_kernel(bench: Bench):
    bench.fake.fake_fail(b"cuLaunchKernel", 701, 0)
    with pytest.raises(
        CudaError, match=r"cuLaunchKernel failed .*\(701\) for hb_quantize, grid 1 x 1, 256 threads\. A kernel"
    ):
        quantize(bench.module, bench.stream, 0, 0, 1)
    with pytest.raises(CudaError, match=r"cuModuleGetFunction failed .*\(500\) for kernel hb_nothing"):
        bench.module.kernel("hb_nothing")
    quantize(bench.module, bench.stream, 0, 0, 0)  # nothing to do is no launch
    for grid, threads, code in (((1, 1), 288, 701), ((1, 65536), 256, 1), ((1, 1), 1056, 1)):
        with pytest.raises(CudaError, match=rf"\({code}\) for hb_quantize, grid 1 x {grid[1]}, {threads} threads"):
            bench.module.kernel("hb_quantize").launch(bench.stream, grid, threads, *map(ctypes.c_uint64, (0, 0, 0)))


ARENAS: list[np.ndarray] = []
"""Kept: where it is refused to unregister memory, nobody else may get its address."""


def use_everything(fake: ctypes.CDLL, image: bytes) -> None:
    """Make every call of the driver at least once; whatever fails, what was made is closed, streams behind the rest."""
    ARENAS.append(np.frombuffer(mmap.mmap(-1, PAGE), np.uint8))
    got = np.zeros(64, np.uint8)
    with Device(Driver(fake)) as device, ExitStack() as on_it:
        assert device.total_bytes
        stream, start, end = Stream(device), Event(device, timed=True), Event(device, timed=True)
        for each in (stream, start, end):
            on_it.callback(each.close)
        module = Module(device, image)
        on_it.callback(module.close)
        memory, registered = DeviceMemory(device, 64), RegisteredMemory(device, ARENAS[-1].ctypes.data, PAGE)
        on_it.enter_context(memory)
        on_it.enter_context(registered)
        on_it.enter_context(PinnedMemory(device, 64))
        with stream.capture() as graph:
            module.kernel("hb_add").launch(stream, (1, 1), 256, *map(ctypes.c_uint64, (0, 0)), ctypes.c_uint32(0))
        on_it.callback(graph.close)
        stream.record(start)
        graph.launch(stream)
        memory.fill(0, stream)
        memory.write(got, stream)
        memory.copy_from(registered, 64, stream)
        memory.read(got, stream)
        stream.wait_for(start)
        stream.record(end)
        end.is_done()
        end.synchronize()
        stream.synchronize()
        end.ms_since(start)


CHECKED = [name for name in FUNCTIONS if name != "cuGetErrorName"]
"""What the runtime calls, less what names the errors of the others."""


@pytest.mark.parametrize("call", CHECKED)
def test_every_call_is_checked(fake: ctypes.CDLL, nvrtc: Nvrtc, call: str):
    image, _ = nvrtc.compile(read_source(), "sm_87")
    fake.fake_fail(call.encode(), 1, 0)
    with pytest.raises(CudaError, match=rf"{call} failed with FAKE_ERROR_1 \(1\).*\. This is a fault of the runtime"):
        use_everything(fake, image)
    assert fake.fake_live_said() == (b"1 contexts; " if call == "cuDevicePrimaryCtxRelease_v2" else b"")
    fake.fake_forget()
    use_everything(fake, image)


def test_a_code_is_an_answer_at_two_calls_alone():
    """Whoever asks for a code has to check it: an event that is not done yet, and the name of an error."""
    asked = {
        name
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r"\bstatus\(\s*\"(\w+)\"", path.read_text("utf-8"))
    }
    assert asked == {"cuEventQuery", "cuGetErrorName"}


def test_an_old_driver_is_refused_with_the_way_out(fake: ctypes.CDLL):
    fake.fake_device(11040, 87, 1)
    with pytest.raises(DeviceError, match=r"supports CUDA 11\.4, 12\.0 or newer is needed.*JetPack 6"):
        Driver(fake)


def test_a_missing_symbol_is_named(fake: ctypes.CDLL):
    class Without:
        def __getattr__(self, name: str) -> object:
            if name == "cuGraphLaunch":
                raise AttributeError(name)
            return getattr(fake, name)

    with pytest.raises(DeviceError, match="has no cuGraphLaunch: it is older than CUDA 12.0"):
        Driver(Without())  # type: ignore[arg-type]


def test_a_missing_library_is_named(tmp_path):
    with pytest.raises(DeviceError, match=r"libcuda.so.1 does not load .*It belongs to NVIDIA's driver"):
        Driver(str(tmp_path / "libcuda.so.1"))


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda fake: fake.fake_device(12060, 87, 0), r"there is no GPU 0, the driver has 0"),
        (lambda fake: fake.fake_device(12060, 75, 1), r"compute capability 7\.5; the kernels need 8\.0"),
        (lambda fake: fake.fake_fail(b"cuInit", 100, 0), r"cuInit failed .*\(100\)\. There is no GPU"),
        (lambda fake: fake.fake_fail(b"cuDevicePrimaryCtxRetain", 46, 0), r"\(46\)\. Another program uses the GPU"),
        (lambda fake: fake.fake_fail(b"cuInit", 803, 0), r"\(803\).*restart the machine"),
    ],
)
def test_a_gpu_that_cannot_be_used_says_why(fake: ctypes.CDLL, prepare: Callable[[ctypes.CDLL], None], said: str):
    prepare(fake)
    with pytest.raises(DeviceError, match=said):
        Device(Driver(fake))
