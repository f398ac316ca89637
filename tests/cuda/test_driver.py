"""The driver layer over the fake driver: order of work, kinds of memory, errors and what is left usable after them."""

from __future__ import annotations

import ctypes
import gc
import mmap
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from cuda.bench import Bench, act_groups, make_case, place, run_pairs
from cuda.build import Fakes

from edge_runtime.backends.cuda.blocks import PinnedBlock, RegisteredBlock
from edge_runtime.backends.cuda.driver import (
    CudaContextLostError,
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
from edge_runtime.backends.cuda.structures import ACT_GROUP
from edge_runtime.backends.memory import KeepsBytes
from edge_runtime.base.errors import DeviceError
from edge_runtime.base.spec import ExpertSpec

MODES = [pytest.param((0, 1), id="late"), *(pytest.param((1, seed), id=f"random {seed}") for seed in (1, 2, 3))]
PAGE, PACKAGE = mmap.PAGESIZE, FOLDER.parent


def test_a_device_says_what_it_is(device: Device):
    assert (device.name, device.arch, device.multiprocessors) == ("Fake Orin", "sm_87", 8)
    assert device.integrated
    assert device.registers_host_memory
    assert device.total_bytes == 8 << 30


@pytest.mark.parametrize("mode", MODES)
def test_copies_and_kernels_of_two_streams_are_ordered_by_events(bench: Bench, mode: tuple[int, int]):
    bench.fake.fake_mode(*mode)
    device, transfers, compute = bench.device, Stream(bench.device), Stream(bench.device)
    landed, done = Event(device), Event(device)
    x = np.random.default_rng(1).standard_normal((1, 96)).astype(np.float32)
    with (
        PinnedMemory(device, x.nbytes) as staging,
        PinnedMemory(device, 3 * 48) as result,
        DeviceMemory(device, x.nbytes) as source,
        DeviceMemory(device, 3 * 48) as target,
    ):
        staging.array[:] = x.view(np.uint8).ravel()
        source.write(staging.array, transfers)
        transfers.record(landed)
        compute.wait_for(landed)
        quantize(bench.module, compute, source.address, target.address, 3)
        target.read(result.array, compute)
        compute.record(done)
        assert mode[0] or not done.is_done(), "late: nothing has run yet"
        done.synchronize()
        assert done.is_done()
        got = result.array.view(ACT_GROUP).reshape(1, 3)
        assert np.array_equal(got["q"], act_groups(x)["q"])
    for each in (landed, done, transfers, compute):
        each.close()
        each.close()  # twice is once


@pytest.mark.parametrize("mode", MODES)
def test_experts_in_registered_memory_give_the_bits_of_device_memory(bench: Bench, mode: tuple[int, int]):
    """What a read from the drive left in ordinary pages is computed from in place."""
    bench.fake.fake_mode(*mode)
    case = make_case(96, ExpertSpec(64), 4, seed=1)
    want = run_pairs(bench, case)
    placed = place(bench, case)
    parts = [(slot, k, part) for slot, e in enumerate(case.pool) for k, part in enumerate(e.parts(4))]
    arena = mmap.mmap(-1, sum(part.nbytes for *_, part in parts))
    host = np.frombuffer(arena, np.uint8)
    table, at = np.zeros((3, 4), np.uint64), 0
    with RegisteredMemory(bench.device, host.ctypes.data, host.nbytes) as registered:
        for slot, k, part in parts:
            host[at : at + part.nbytes] = part
            table[slot, k] = registered.address + at
            at += part.nbytes
        got = run_pairs(bench, case, replace(placed, segments=bench.put(table)))
    assert got.y.tobytes() == want.y.tobytes()
    del host
    arena.close()


def test_copies_between_memories_and_filling(device: Device):
    stream, numbers = Stream(device), np.arange(64, dtype=np.uint8)
    with DeviceMemory(device, 64) as first, DeviceMemory(device, 64) as second:
        first.write(numbers, stream)
        second.fill(7, stream)
        second.copy_from(first, 16, stream, offset=32, source_offset=8)
        got, part = np.empty(64, np.uint8), np.empty(4, np.uint8)
        second.read(got, stream)
        second.read(part, stream, offset=30)
        stream.synchronize()
    assert got.tolist() == [7] * 32 + list(range(8, 24)) + [7] * 16
    assert part.tolist() == [7, 7, 8, 9]
    stream.close()


def test_a_graph_runs_again_with_what_is_in_memory_by_then(bench: Bench):
    device, stream = bench.device, Stream(bench.device)
    x = np.random.default_rng(2).standard_normal((2, 32)).astype(np.float32)
    with DeviceMemory(device, 128) as source, DeviceMemory(device, 48) as target:
        with stream.capture() as graph:
            quantize(bench.module, stream, source.address, target.address, 1)
        for row in x:
            source.write(row, stream)
            graph.launch(stream)
            got = np.zeros((1, 1), ACT_GROUP)
            target.read(got, stream)
            stream.synchronize()
            assert np.array_equal(got["q"], act_groups(row[None])["q"])
        with pytest.raises(ZeroDivisionError), stream.capture():
            raise ZeroDivisionError
        with pytest.raises(CudaError, match="cuStreamSynchronize"), stream.capture():
            stream.synchronize()
        graph.launch(stream)  # an abandoned capture leaves the stream usable
        stream.synchronize()
        graph.close()
    stream.close()


def test_events_measure_time_and_waiting_has_an_end(device: Device):
    stream, start, end = Stream(device), Event(device, timed=True), Event(device, timed=True)
    with DeviceMemory(device, 64) as memory:
        stream.record(start)
        memory.fill(0, stream)
        stream.record(end)
        assert not end.wait(1e-5)
        stream.synchronize()
        assert end.wait(0)
        assert end.ms_since(start) == 0.25  # the fake driver's clock: a piece of work
    plain = Event(device)
    assert plain.is_done()  # never recorded
    with pytest.raises(CudaError, match="cuEventElapsedTime"):
        plain.ms_since(start)
    for each in (start, end, plain, stream):
        each.close()


def test_every_thread_may_make_calls(device: Device, fake: ctypes.CDLL):
    fake.fake_fail(b"cuCtxSetCurrent", 201, 0)
    found: list[CudaError | int] = []

    def allocate() -> None:
        try:
            with DeviceMemory(device, 64) as memory:
                found.append(memory.nbytes)
        except CudaError as err:
            found.append(err)

    for _ in range(2):
        thread = threading.Thread(target=allocate)
        thread.start()
        thread.join()
    assert isinstance(found[0], CudaError)  # the context is made current in the new thread, here in vain
    assert found[1] == 64


# Errors


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


def test_memory_of_the_host_is_given_back_behind_what_reads_it(device: Device):
    stream, arena = Stream(device), mmap.mmap(-1, PAGE)
    host, got = np.frombuffer(arena, np.uint8), np.empty(64, np.uint8)
    host[:], pinned = 7, PinnedMemory(device, 64)
    pinned.array[:] = 9
    with DeviceMemory(device, 128) as target:
        registered = RegisteredMemory(device, host.ctypes.data, PAGE)
        target.copy_from(registered, 64, stream)
        registered.close()
        host[:] = 0
        target.copy_from(pinned, 64, stream, offset=64)
        pinned.close()
        for offset, value in ((0, 7), (64, 9)):
            target.read(got, stream, offset=offset)
            stream.synchronize()
            assert (got == value).all()
    stream.close()
    del host
    arena.close()


def test_memory_is_given_back(device: Device, fake: ctypes.CDLL):
    before = fake.fake_live_regions()
    for _ in range(3):
        with DeviceMemory(device, 64) as one, PinnedMemory(device, 64):
            one.close()
    assert fake.fake_live_regions() == before


def test_memory_that_cannot_be_mapped_is_not_left_registered(device: Device, fake: ctypes.CDLL):
    arena = mmap.mmap(-1, PAGE)
    host = np.frombuffer(arena, np.uint8)
    before = fake.fake_live_regions()
    fake.fake_fail(b"cuMemHostGetDevicePointer_v2", 801, 0)
    with pytest.raises(CudaError, match=r"\(801\). This GPU or driver does not support the call"):
        RegisteredMemory(device, host.ctypes.data, PAGE)
    assert fake.fake_live_regions() == before
    with RegisteredMemory(device, host.ctypes.data, PAGE), pytest.raises(CudaError, match=r"\(712\)"):
        RegisteredMemory(device, host.ctypes.data, PAGE)
    del host
    arena.close()


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


def test_a_failed_kernel_ends_the_use_of_the_gpu_and_closing_still_works(device: Device, fake: ctypes.CDLL):
    stream, memory, event = Stream(device), DeviceMemory(device, 64), Event(device)
    fake.fake_fail(b"cuStreamSynchronize", 700, 0)
    with pytest.raises(CudaContextLostError, match="restart it"):
        stream.synchronize()
    with pytest.raises(CudaContextLostError):
        DeviceMemory(device, 64)
    with pytest.raises(CudaContextLostError):
        event.is_done()
    for each in (memory, event, stream, device):
        each.close()


def test_a_device_takes_along_what_somebody_still_refers_to(fake: ctypes.CDLL, nvrtc: Nvrtc):
    """Work that is queued is over before memory it reads goes; what is asked of any of it later is refused in words."""
    image, _ = nvrtc.compile(read_source(), "sm_87")
    device, arena = Device(Driver(fake)), np.frombuffer(mmap.mmap(-1, PAGE), np.uint8)
    stream, event, module = Stream(device), Event(device), Module(device, image)
    memory, blocks = DeviceMemory(device, 64), [PinnedBlock(device, 64), RegisteredBlock(device, PAGE)]
    known = RegisteredMemory(device, arena.ctypes.data, PAGE)
    got, kernel = np.zeros(64, np.uint8), module.kernel("hb_add")
    with stream.capture() as graph:
        kernel.launch(stream, (1, 1), 256, *map(ctypes.c_uint64, (0, 0)), ctypes.c_uint32(0))
    memory.copy_from(known, 64, stream)
    stream.record(event)
    device.close()
    assert fake.fake_live_said() == b""
    for ask in (
        lambda: blocks[0].host, lambda: memory.read(got, stream), event.is_done, stream.synchronize, stream.capture().__enter__,
        lambda: graph.launch(stream), lambda: module.kernel("hb_route"), lambda: Event(device),
        lambda: kernel.start(stream, (1, 1), 256, ()),
    ):  # fmt: skip
        with pytest.raises(DeviceError, match="the GPU was closed, and what was made on it with it"):
            ask()
    for each in (memory, *blocks, known, event, stream, graph, module, device):
        each.close()
    with Device(Driver(fake)) as other, PinnedMemory(other, 64):
        blocks.clear()
        gc.collect()
        left = fake.fake_live_said()
        assert left == b"4096 bytes of pinned memory; 1 contexts; ", "what is of another device stays"


def test_what_the_driver_refused_to_take_back_is_given_back_with_the_device(fake: ctypes.CDLL):
    with Device(Driver(fake)) as device:
        memory, pinned = DeviceMemory(device, 64), PinnedMemory(device, 64)
        for each, call in ((memory, b"cuMemFree_v2"), (pinned, b"cuCtxSynchronize")):
            fake.fake_fail(call, 1, 0)
            with pytest.raises(CudaError, match=call.decode()):
                each.close()
        with pytest.raises(DeviceError, match="pinned memory was given back"):
            pinned.array.fill(0)
        fake.fake_recover()
        assert sorted(fake.fake_live_said().split(b"; ")) == [
            b"", b"1 contexts", b"4096 bytes of device memory", b"4096 bytes of pinned memory"
        ]  # fmt: skip
    assert fake.fake_live_said() == b""


def test_one_refusal_at_the_end_leaves_nothing_else(fake: ctypes.CDLL):
    device = Device(Driver(fake))
    made = Stream(device), Event(device), DeviceMemory(device, 64), PinnedMemory(device, 64)
    fake.fake_fail(b"cuEventDestroy_v2", 1, 0)
    with pytest.raises(CudaError, match="cuEventDestroy_v2"):
        device.close()
    assert fake.fake_live_said() == b"1 events; ", "the refused one"
    assert device.taken.bytes == 0
    for each in (*made, device):
        each.close()
    fake.fake_forget()


def test_memory_that_a_stuck_read_may_still_write_outlives_the_device(fake: ctypes.CDLL):
    device = Device(Driver(fake))
    stuck, other = PinnedBlock(device, 64), PinnedBlock(device, 64)
    assert isinstance(stuck, KeepsBytes)
    bytes_of = ctypes.c_ubyte.from_address(stuck.host or 0)
    stuck.keep()
    device.close()
    other.close()
    bytes_of.value = 7  # else a SIGSEGV
    assert fake.fake_live_said() == b"4096 bytes of pinned memory; 1 contexts; "
    fake.fake_forget()


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


def test_importing_loads_no_library_of_nvidias():
    code = (
        "import edge_runtime.backends.cuda.launches, edge_runtime.backends.cuda.cubins, sys;"
        "maps = open('/proc/self/maps').read();"
        "assert 'libcuda' not in maps and 'nvrtc' not in maps;"
        "assert not any(name.split('.')[0] in ('cuda', 'cupy', 'pycuda', 'torch') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_table_of_functions_is_what_the_fake_library_has(fakes: Fakes):
    library = ctypes.CDLL(str(fakes.libcuda))
    assert [name for name in FUNCTIONS if not hasattr(library, name)] == []
