"""How fast a GPU reads memory, by its own clock, within a time that is known before."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from edge_runtime.backends.cuda.driver import CudaError, DeviceMemory, Event, Module, Stream
from edge_runtime.base.errors import DeviceError

_THREADS, _WARPS, _BLOCKS_A_MULTIPROCESSOR = 256, 8, 4
"""Of the kernel that reads (kReadThreads in reading.cuh, and its launch bounds)."""
_UNIT, _AHEAD = 16, 4
FIRST_BYTES, _GROWTH, _ROUNDS, _REPEATS = 128 << 10, 4, 2, 2


class Reader:
    """Reads memory the GPU can address, and checks what was there.

    Args:
        module: the kernels.
        stream: orders the work.

    Raises:
        CudaMemoryError: there is no room for the sums.
    """

    def __init__(self, module: Module, stream: Stream) -> None:
        self._kernel, self._stream = module.kernel("hb_read"), stream
        self._most = _BLOCKS_A_MULTIPROCESSOR * stream.device.multiprocessors
        self._sums = DeviceMemory(stream.device, 4 * _WARPS * self._most)

    def rate(self, address: int, nbytes: int, expected: int) -> float:
        """Return how fast memory is read, in 10^9 bytes a second.

        Args:
            address: on the GPU.
            nbytes: a multiple of 16.
            expected: sum of its 32-bit words, modulo 2^32.

        Raises:
            WrongBytesError: the GPU reads other bytes than that.
            CudaError: the driver refuses, or the kernel fails.
        """
        blocks = min(self._most, -(-nbytes // (_UNIT * _THREADS * _AHEAD)))
        arguments = ctypes.c_uint64(address), ctypes.c_uint32(nbytes // _UNIT), ctypes.c_uint64(self._sums.address)
        ms = timed_ms(self._stream, lambda: self._kernel.launch(self._stream, (blocks, 1), _THREADS, *arguments))
        sums = np.zeros(_WARPS * blocks, np.uint32)
        self._sums.read(sums, self._stream)
        self._stream.synchronize()
        if int(sums.sum(dtype=np.uint32)) != expected:
            raise WrongBytesError("the GPU reads other bytes than lie there")
        return nbytes / max(ms, 1e-6) / 1e6

    def close(self) -> None:
        """Give the memory back. Safe to call twice."""
        self._sums.close()


class WrongBytesError(DeviceError):
    """A kind of memory gives the GPU other bytes than were written."""


def timed_ms(stream: Stream, run: Callable[[], Any], repeats: int = _REPEATS) -> float:
    """Return the milliseconds of one run, by the GPU's clock; the first one does not count."""
    run()
    start, end = Event(stream.device, timed=True), Event(stream.device, timed=True)
    try:
        stream.record(start)
        for _ in range(repeats):
            run()
        stream.record(end)
        end.synchronize()
        return end.ms_since(start) / repeats
    finally:
        start.close()
        end.close()


class Rates(NamedTuple):
    """Rates by name in 10^9 bytes a second, and for how many bytes; what failed, with the error."""

    found: dict[str, float]
    nbytes: int
    failed: dict[str, CudaError | WrongBytesError]


def measure(rates: Mapping[str, Callable[[int], float]], most_bytes: int, budget_s: float) -> Rates:
    """Time several ways to read, of the same number of bytes, in turns: clocks that rise meanwhile favour none.

    Args:
        rates: by name, what gives the rate for a number of bytes.
        most_bytes: never more than so many.
        budget_s: no larger size is begun that would end behind it. The first is always done.

    Returns:
        The best of each, at the largest size there was time for.

    Raises:
        DeviceError: the GPU can no longer be used.
    """
    end, size = time.monotonic() + budget_s, min(FIRST_BYTES, most_bytes)
    failed: dict[str, CudaError | WrongBytesError] = {}
    while True:
        begun, found = time.monotonic(), dict[str, float]()
        for _ in range(_ROUNDS):
            for name in [name for name in rates if name not in failed]:
                try:
                    found[name] = max(found.get(name, 0.0), rates[name](size))
                except (CudaError, WrongBytesError) as err:
                    failed[name] = err.with_traceback(None)  # which would keep what was read alive
                    found.pop(name, None)
        now, larger = time.monotonic(), min(_GROWTH * size, most_bytes)
        if size == most_bytes or now + (now - begun) * larger / size > end:
            return Rates(found, size, failed)
        size = larger
