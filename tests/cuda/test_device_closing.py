"""What closes with a GPU: memory behind the work that reads it, what somebody still refers to, what a driver refused."""

from __future__ import annotations

import ctypes
import gc
import mmap

import numpy as np
import pytest

from edge_runtime.backends.cuda.blocks import PinnedBlock, RegisteredBlock
from edge_runtime.backends.cuda.driver import (
    CudaContextLostError,
    CudaError,
    Device,
    DeviceMemory,
    Driver,
    Event,
    Module,
    PinnedMemory,
    RegisteredMemory,
    Stream,
)
from edge_runtime.backends.cuda.driver.errors import CONTEXT_LOST
from edge_runtime.backends.cuda.nvrtc import Nvrtc
from edge_runtime.backends.cuda.sources import read_source
from edge_runtime.backends.memory import KeepsBytes
from edge_runtime.base.errors import DeviceError

PAGE = mmap.PAGESIZE


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


@pytest.mark.parametrize("code", sorted(CONTEXT_LOST))
def test_a_failed_kernel_ends_the_use_of_the_gpu_and_closing_still_works(device: Device, fake: ctypes.CDLL, code: int):
    stream, memory, event = Stream(device), DeviceMemory(device, 64), Event(device)
    fake.fake_fail(b"cuStreamSynchronize", code, 0)
    with pytest.raises(CudaContextLostError, match="restart (it|the process)"):
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
