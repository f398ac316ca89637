"""The late backend keeps what it promises: late, apart, untouchable, with a clock of its own."""

from __future__ import annotations

import copy
import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE_S

from edge_runtime.backends.base import BackendOptions
from edge_runtime.base.errors import DeviceError
from edge_runtime.bundle.bundle import Bundle
from late_backend import both
from late_backend.backend import LateBackend
from late_backend.device import COMPUTE, COPY, TICK_NS, Device, DeviceClock
from late_backend.hazards import HostFault
from late_backend.memory import DeviceMemory, LateSpace
from late_backend.tensors import LateTensor, LateTensors, Numbers
from late_backend.transfers import StagedLanding


@pytest.fixture
def device():
    device = Device("late")
    yield device
    device.close()


def tensor(device: Device, rows: list[list[float]]) -> LateTensor:
    numbers = Numbers(device, (len(rows), len(rows[0])))

    def fill() -> None:
        numbers.array = np.array(rows, np.float32)

    device.push(COMPUTE, "fill", fill)
    return LateTensor(numbers)


def test_nothing_runs_before_somebody_waits_and_then_no_further(device):
    ran: list[str] = []
    for name in ("first", "second"):
        device.push(COMPUTE, "work", lambda name=name: ran.append(name))
        event = device.record(COMPUTE) if name == "first" else None
        device.push(COPY, "work", lambda name=name: ran.append(f"{name} copy"))
        if event is not None:
            first = event
    assert not any(first.is_done() for _ in range(100))
    assert first.wait(PATIENCE_S)
    assert ran == ["first"]
    device.finish(COPY)
    assert ran == ["first", "first copy", "second copy"]


def test_random_devices_run_by_themselves_in_orders_of_their_own():
    orders = set()
    for seed in range(8):
        device, ran = Device(f"random:{seed}"), []
        for number in range(6):
            for stream in (COPY, COMPUTE):
                device.push(stream, "work", lambda each=(stream, number), ran=ran: ran.append(each))
        for stream in (COPY, COMPUTE):
            device.finish(stream)
            assert [n for s, n in ran if s == stream] == list(range(6)), "each queue is in order"
        orders.add(tuple(ran))
        device.close()
    assert len(orders) > 1


def test_events_tell_of_a_failure_until_it_was_heard(device):
    device.fail_next("work")
    device.push(COMPUTE, "work", lambda: None)
    unheard, heard = device.record(COMPUTE), device.record(COMPUTE)
    with pytest.raises(DeviceError, match="scripted failure of work"):
        heard.wait(PATIENCE_S)
    assert device.record(COMPUTE).wait(PATIENCE_S)
    with pytest.raises(DeviceError, match="scripted"):
        unheard.is_done()


TOUCHES = {
    "array": np.asarray,
    "copy": copy.deepcopy,
    "buffer": memoryview,
    "ufunc": lambda x: np.float32(1) + x,
    "function": lambda x: np.concatenate([x, x]),
    "index": lambda x: x[0],
    "assignment": lambda x: x.__setitem__(0, 1),
    "length": len,
    "iteration": list,
    "comparison": lambda x: x == x,
    "membership": lambda x: 1 in x,
    "truth": bool,
    "number": float,
    "sum": lambda x: x + x,
    "sum in place": lambda x: x.__iadd__(x),
    "product": lambda x: x @ x,
    "bytes": bytes,
}


@pytest.mark.parametrize("touch", TOUCHES)
def test_the_host_cannot_touch_a_tensor(device, touch):
    whole = tensor(device, [[1, 2], [3, 4]])
    for each in (whole, *LateTensors(device).split(whole, [1, 1])):
        with pytest.raises((DeviceError, TypeError), match=r"touched by the host|bytes-like object is required"):
            TOUCHES[touch](each)
        with pytest.raises(DeviceError, match="device memory"):
            _ = each.numbers.array


def test_tensors_are_computed_in_the_order_of_the_queue(device):
    tensors = LateTensors(device)
    a, b = tensor(device, [[1, 2]]), tensor(device, [[3, 4], [5, 6]])
    joined = tensors.join([a, b])
    first, second = tensors.split(joined, [1, 2])
    tensors.add(second, b)
    assert device.num_queued(COMPUTE) == 5
    assert tensors.to_host(joined).tolist() == [[1, 2], [6, 8], [10, 12]], "parts share memory"
    assert tensors.to_host(first).tolist() == [[1, 2]]


def test_outputs_end_with_the_next_layer(model_bundle):
    backend = LateBackend(BackendOptions(), "late")
    bundle = Bundle.open(model_bundle)
    trunk, kernels = backend.load_trunk(bundle, max_chunk=4), backend.make_kernels(bundle, 4)
    chunk = trunk.begin(np.arange(3, dtype=np.int32), trunk.new_kv_cache(16))
    old = trunk.run_layer(chunk, 0, None)
    new = trunk.run_layer(chunk, 1, None)
    backend.tensors.to_host(new.x)
    with pytest.raises(DeviceError, match="given to something else"):
        backend.tensors.to_host(old.x)
    ids, weights = np.zeros((3, 4), np.int32), np.zeros((3, 4), np.float32)
    outs = []
    for _ in range(2):
        kernels.begin(new.x, ids, weights)
        outs.append(kernels.end())
    part = backend.tensors.split(outs[1], [1, 2])[0]
    for stale in (outs[0], part):
        kernels.begin(new.x, ids, weights)
        kernels.end()
        with pytest.raises(DeviceError, match="given to something else"):
            trunk.run_layer(chunk, 2, stale)
    trunk.close()
    backend.close()


def test_what_the_host_hands_over_may_change_afterwards(model_bundle):
    with both.opened(model_bundle, "late", slots=both.ALL) as engine:
        trunk, backend = engine.parts.trunk, engine.parts.backend
        found = []
        for changes in (False, True):
            ids = np.arange(1, 5, dtype=np.int32)
            chunk = trunk.begin(ids, trunk.new_kv_cache(16))
            ids[:] = 0 if changes else ids
            found.append(backend.tensors.to_host(trunk.run_layer(chunk, 0, None).x))
        assert (found[0] == found[1]).all()


def slots_of(device: Device) -> tuple[LateSpace, DeviceMemory, object]:
    memory = DeviceMemory(device)
    space = LateSpace(device, memory, 8192, 2)
    return space, memory, space.make_slots(slot_bytes=8192, num_slots=10, segment_offsets=[0, 4096], block_bytes=32768)


def test_slots_are_held_by_blocks_and_give_back_no_pages(device):
    space, memory, slots = slots_of(device)
    assert not space.gives_back_pages
    with pytest.raises(DeviceError, match="whole blocks"):
        slots.discard(0)
    assert [slots.whole_blocks(n) for n in (10, 9, 8, 5, 4, 3)] == [10, 8, 8, 4, 4, 0]
    slots.resize(5)
    assert (slots.num_slots, memory.nbytes) == (5, 8 * 8192)
    slots.resize(12)
    assert (slots.num_slots, memory.nbytes) == (12, 12 * 8192)
    assert np.unique(slots.addresses[:, :2]).size == 24
    slots.close()
    assert memory.nbytes == 0


def test_freed_memory_is_an_illegal_address(device):
    _, memory, slots = slots_of(device)
    address = slots.range_of(9).address
    slots.resize(4)
    device.push(COMPUTE, "work", lambda: memory.real(address))
    with pytest.raises(DeviceError, match="illegal address"):
        device.finish()


def test_a_staging_buffer_is_poisoned_when_it_is_given_back(device, monkeypatch):
    space, memory, slots = slots_of(device)
    transfers = space.transfers
    monkeypatch.setattr(StagedLanding, "is_busy", False)  # or the host would be told
    landing = transfers.land([slots.range_of(3)])
    assert transfers.room == 1
    event = transfers.start(landing)
    transfers.release(landing)
    transfers.release(landing)
    assert transfers.room == 2
    assert event.wait(PATIENCE_S)
    seen: list[bytes] = []
    device.push(COMPUTE, "work", lambda: seen.append(ctypes.string_at(memory.real(slots.range_of(3).address), 4)))
    device.finish()
    assert seen == [b"\xa5" * 4], "the host was too early"


def test_the_host_is_told_what_it_should_have_waited_for(device):
    space, memory, slots = slots_of(device)
    segments = slots.addresses[3:4, :2].copy()
    landing = space.transfers.land([slots.range_of(3)])
    event = space.transfers.start(landing)
    with pytest.raises(HostFault, match="given back before its transfer"):
        space.transfers.release(landing)
    with pytest.raises(HostFault, match="before its transfer was over"):
        memory.push_kernels("kernels", segments, lambda: None)
    assert event.wait(PATIENCE_S)
    memory.push_kernels("kernels", segments, lambda: None)
    with pytest.raises(HostFault, match="queued kernels still read"):
        space.transfers.start(landing)
    with pytest.raises(HostFault, match="queued work still uses"):
        slots.resize(0)
    device.finish()
    space.transfers.release(landing)
    slots.resize(0)


def test_the_clock_is_the_devices(device):
    clock = DeviceClock(device)
    start = clock.mark()
    for _ in range(3):
        device.push(COMPUTE, "work", lambda: None)
    end = clock.mark()
    assert clock.elapsed_ns(end, start) is None
    device.finish()
    assert clock.elapsed_ns(end, start) == 3 * TICK_NS


def test_phases_are_timed_by_the_device(model_bundle):
    with both.opened(model_bundle, "late", slots=both.FEW) as engine:
        both.tokens(engine)
        device = engine.parts.backend.device
        device.finish()
        spent = engine.parts.decoder.spans.ns
        assert spent["experts"] == TICK_NS * device.ran["experts"]
        assert spent["trunk"] == TICK_NS * device.ran["trunk"]


def test_an_address_of_the_device_is_none_of_the_process():
    script = """
import ctypes
from late_backend.device import Device
from late_backend.memory import DeviceMemory
block = DeviceMemory(Device("late")).allocate(4096)
print("trying", flush=True)
ctypes.string_at(block.address, 1)
print("read it")
"""
    folder = str(Path(both.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": folder}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stdout) == (-11, "trying\n"), done.stderr
