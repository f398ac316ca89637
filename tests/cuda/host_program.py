"""A layer's experts over the driver, with one fault planted in the host's code, or none: LIBCUDA LIBNVRTC FOLDER MODE FAULT.

Prints "right" or "wrong". Run as a process of its own, since some faults end it.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
from cuda.bench import Bench, act_groups, make_case, matrices, values_of

from edge_runtime.backends.cpu.activation import expert_hidden
from edge_runtime.backends.cuda.cubins import load_kernels
from edge_runtime.backends.cuda.driver import Device, DeviceMemory, Driver, Event, PinnedMemory, Stream
from edge_runtime.backends.cuda.launches import ExpertLaunches, Hidden
from edge_runtime.backends.cuda.nvrtc import Nvrtc
from edge_runtime.backends.cuda.structures import Pairs
from edge_runtime.base.spec import ExpertSpec


def main(libcuda: str, libnvrtc: str, folder: str, mode: str, fault: str) -> None:
    fake = ctypes.CDLL(libcuda)
    fake.fake_mode.argtypes = [ctypes.c_int, ctypes.c_uint64]
    fake.fake_mode(mode != "late", int(mode) if mode != "late" else 1)
    device = Device(Driver(fake))
    module = load_kernels(device, folder=Path(folder), compiler=lambda: Nvrtc(libnvrtc))
    with Bench(fake, device, module) as bench:
        print("right" if run(bench, device, fault) else "wrong")


def run(bench: Bench, device: Device, fault: str) -> bool:
    case = make_case(64, ExpertSpec(32), 4, seed=1, tokens=1)
    expert, pairs = case.pool[2], 3
    transfers, compute = Stream(device), Stream(device)
    uploaded, computed = Event(device), Event(device)
    acts = act_groups(case.x)
    table = np.zeros((1, 4), np.uint64)
    table[0, :2] = [bench.put(part) for part in expert.parts(4)]
    segments, slots, ids = bench.put(table), bench.put(np.zeros(4, np.int32)), bench.put(np.zeros(pairs, np.int32))
    bench.stream.synchronize()
    staging, x = PinnedMemory(device, acts.nbytes), DeviceMemory(device, acts.nbytes)
    h, y = DeviceMemory(device, 48 * pairs), DeviceMemory(device, 4 * 64 * pairs)
    result = PinnedMemory(device, y.nbytes)
    result.array[:] = 0

    staging.array[:] = acts.view(np.uint8).ravel()
    x.write(staging.array, transfers)
    transfers.record(uploaded)
    if fault == "staging is used again before the copy has run":
        staging.array[:] = 0
    if fault != "a stream does not wait for the upload":
        compute.wait_for(uploaded)
    launches = ExpertLaunches(bench.module, case.hidden, pairs, case.spec)
    launches.run_pairs(compute, 4, Pairs(segments, slots, ids), pairs, Hidden(x.address, h.address, y.address))
    if fault == "the event stands before the last copy":
        compute.record(computed)
    y.read(result.array, compute)
    if fault != "the event stands before the last copy":
        compute.record(computed)
    if fault == "memory of the host is given back without waiting":
        device.call("cuMemFreeHost", staging.array.ctypes.data)
    if fault == "the host touches device memory":
        ctypes.string_at(y.address, 4)
    if fault != "the result is read before the event":
        computed.synchronize()

    weights, _ = matrices(case, expert)
    gate, up = (values_of(acts) @ w.T for w in weights[:2])
    hidden = act_groups(expert_hidden(case.spec, gate, up).astype(np.float32))
    want = (values_of(hidden) @ weights[2].T)[0]
    got = result.array.view(np.float32).reshape(pairs, 64)
    return bool((np.abs(got - want) <= 2e-3 * np.abs(want).max()).all())


if __name__ == "__main__":
    main(*sys.argv[1:])
