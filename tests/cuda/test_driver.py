"""The driver layer over the fake driver: order of work, kinds of memory, graphs, events, threads."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from cuda.bench import Bench, act_groups, make_case, place, run_pairs
from cuda.build import Fakes

from edge_runtime.backends.cuda.driver import (
    CudaError,
    Device,
    DeviceMemory,
    Event,
    PinnedMemory,
    RegisteredMemory,
    Stream,
)
from edge_runtime.backends.cuda.driver.library import FUNCTIONS
from edge_runtime.backends.cuda.launches import quantize
from edge_runtime.backends.cuda.structures import ACT_GROUP
from edge_runtime.base.spec import ExpertSpec

MODES = [pytest.param((0, 1), id="late"), *(pytest.param((1, seed), id=f"random {seed}") for seed in (1, 2, 3))]


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
