"""Probe: how fast memory is read, by threads. The C library's memchr looks through a buffer larger than the caches."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from edge_runtime.base.errors import DeviceError
from edge_runtime.base.huge_pages import huge_memory
from edge_runtime.base.sizes import KIB, MIB, format_size
from edge_runtime.config.limits import available_cpus, read_limits
from edge_runtime.lab.probes.base import Subject

SUMMARY = "memory: GB/s read, by threads"
_LEAST_BYTES, _MOST_BYTES = 64 * MIB, 1024 * MIB
_CACHES = 4
"""The buffer is so many times the largest cache, where memory allows it."""
_SWEEPS, _MOST_SWEEPS = 3, 100
_FILLED, _END = 1, 2


@dataclass(frozen=True)
class MemoryPoint:
    """Rate at a number of threads.

    Attributes:
        threads: that read, each its own part.
        gb_s: the median of the samples, in GB/s (10^9 bytes).
        samples: GB/s of each sweep over the buffer.
    """

    threads: int
    gb_s: float
    samples: tuple[float, ...]


@dataclass(frozen=True)
class MemoryBandwidth:
    """Read rates of memory.

    Attributes:
        points: by threads.
        buffer_bytes: what a sweep reads.
        cache_bytes: the largest cache of a CPU; None if the system does not say.
    """

    points: tuple[MemoryPoint, ...]
    buffer_bytes: int
    cache_bytes: int | None

    @property
    def best(self) -> MemoryPoint:
        """The fastest."""
        return max(self.points, key=lambda point: point.gb_s)

    @property
    def is_beyond_caches(self) -> bool | None:
        """Whether the buffer is larger than the largest cache: if not, the rate may be the cache's."""
        return None if self.cache_bytes is None else self.buffer_bytes > self.cache_bytes

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self) | {"is_beyond_caches": self.is_beyond_caches}

    def lines(self) -> list[str]:
        """Return it for people."""
        rows = [f"{p.threads:>3} {'thread ' if p.threads == 1 else 'threads'}{p.gb_s:>9.1f} GB/s" for p in self.points]
        if self.is_beyond_caches is False:
            rows.append(f"the buffer of {format_size(self.buffer_bytes)} is within the caches: this may be their rate")
        return rows


def run(subject: Subject) -> MemoryBandwidth:
    """Measure at 1, 2, 4, ... threads up to the CPUs there are.

    Raises:
        DeviceError: there is not enough memory, or the C library has no memchr.
    """
    cache = largest_cache(subject.root)
    size = min(max(_CACHES * (cache or 0), _LEAST_BYTES), _MOST_BYTES)
    return measure(min(size, _available() // 4), subject.seconds, available_cpus(), cache)


def measure(nbytes: int, seconds: float, cpus: int, cache_bytes: int | None = None) -> MemoryBandwidth:
    """Measure with a buffer of `nbytes`, each number of threads for `seconds`."""
    counts = sorted({1 << n for n in range(cpus.bit_length()) if 1 << n <= cpus} | {cpus})
    per_thread = nbytes // max(counts) // (4 * KIB) * 4 * KIB
    if per_thread < 4 * KIB:
        raise DeviceError(f"memory probe: {format_size(nbytes)} is too little for {max(counts)} threads.")
    search = getattr(ctypes.CDLL(None), "memchr", None)
    if search is None:
        raise DeviceError("memory probe: the C library has no memchr.")
    search.restype, search.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    whole = per_thread * max(counts)
    with huge_memory(whole) as memory:
        ctypes.memset(base := ctypes.addressof(ctypes.c_char.from_buffer(memory)), _FILLED, whole)
        points = tuple(_point(search, base, whole, threads, seconds) for threads in counts)
        return MemoryBandwidth(points, whole, cache_bytes)


def _point(search: Any, base: int, whole: int, threads: int, seconds: float) -> MemoryPoint:
    """Sweep until the time is over, three times at least; every byte is proven read by where the search ended."""
    size = whole // threads
    parts = [base + number * size for number in range(threads)]
    for part in parts:
        ctypes.memset(part + size - 1, _END, 1)

    def sweep(part: int) -> None:
        if search(part, _END, size) != part + size - 1:
            raise DeviceError("memory probe: the search did not end where the buffer does.")

    samples: list[float] = []
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(sweep, parts))
        started = perf_counter()
        while len(samples) < _SWEEPS or (perf_counter() - started < seconds and len(samples) < _MOST_SWEEPS):
            begun = perf_counter()
            list(pool.map(sweep, parts))
            samples.append(round(threads * size / (perf_counter() - begun) / 1e9, 3))
    for part in parts:
        ctypes.memset(part + size - 1, _FILLED, 1)
    return MemoryPoint(threads, median(samples), tuple(samples))


def largest_cache(root: Path = Path("/")) -> int | None:
    """Return the bytes of the largest cache of CPU 0; None if the system does not say."""
    sizes = []
    for path in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) * KIB)
    return max(sizes, default=None)


def _available() -> int:
    limits = read_limits()
    free = limits.cgroup_free_bytes
    return limits.available_bytes if free is None else min(limits.available_bytes, free)
