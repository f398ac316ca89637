"""What the drive gives: reads of given places at a block size and depth, with proof that they reached the drive.

A probe that reads the page cache measures memory. So reads are O_DIRECT, or of pages the kernel was asked to drop, and
afterwards the kernel's own count of bytes this process (or this device) fetched has to agree with what was read; if it
does not, there is no result.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import random
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Literal, NamedTuple

from edge_runtime.base.errors import DeviceError
from edge_runtime.base.huge_pages import huge_memory
from edge_runtime.base.sizes import GIB, align_up, format_size
from edge_runtime.telemetry.drive_witness import DriveWitness
from edge_runtime.telemetry.samples import percentiles

_PAGE = 4096
_HUGE = 2 << 20
_PROVEN = 0.98  # of the bytes asked for; the kernel counts whole sectors, so nothing is lost to rounding
_MOST_SAMPLES = 120
Order = Literal["random", "sequential"]


class Extent(NamedTuple):
    """A part of a file that is read in one go, its ends multiples of 4 KiB."""

    path: Path
    offset: int
    length: int


@dataclass(frozen=True)
class DriveCeiling:
    """What a probe found.

    Attributes:
        gbps: GB/s (10^9 bytes) over the whole probe.
        block_bytes: largest single read.
        depth: reads under way at once.
        read_bytes: bytes read.
        seconds: time it took.
        block_ms_p50, block_ms_p99: time of one read.
        proven_by: who counted the bytes: 'process' (/proc/self/io) or 'device' (its block statistics).
        proven_bytes: what it counted.
        mode: 'direct', past the page cache, or 'buffered', through it.
        order: of the reads: 'random' or 'sequential'.
        interval_s: seconds of a sample.
        gbps_samples: GB/s of one interval after another; a last one that is not full is left out.
    """

    gbps: float
    block_bytes: int
    depth: int
    read_bytes: int
    seconds: float
    block_ms_p50: float | None
    block_ms_p99: float | None
    proven_by: str
    proven_bytes: int
    mode: Literal["direct", "buffered"] = "direct"
    order: Order = "random"
    interval_s: float | None = None
    gbps_samples: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


class _Read(NamedTuple):
    """One read that is over: nanoseconds from the start of the probe to its end, and what it took."""

    end_ns: int
    spent_ns: int
    nbytes: int


def blocks_of(extents: Sequence[Extent], block_bytes: int, *, seed: int, order: Order = "random") -> list[Extent]:
    """Return the extents cut into reads of at most `block_bytes`, each from its start on.

    Args:
        extents: parts of files.
        block_bytes: largest read.
        seed: of the order of the extents, where that is random; in sequence they come by file and offset.
        order: see `seed`.
    """
    ordered = sorted(extents)
    if order == "random":
        ordered = list(extents)
        random.Random(seed).shuffle(ordered)  # noqa: S311 - an order, not a secret
    return [
        Extent(path, offset + at, min(block_bytes, length - at))
        for path, offset, length in ordered
        for at in range(0, length, block_bytes)
    ]


def probe_drive(
    extents: Sequence[Extent],
    *,
    block_bytes: int,
    depth: int,
    seconds: float = 1.0,
    max_bytes: int = GIB,
    seed: int = 0,
    direct: bool = True,
    order: Order = "random",
) -> DriveCeiling:
    """Read extents for `seconds`, `depth` reads at once.

    Direct reads begin again where the extents are few. Buffered ones end there: what was read once is in memory.

    Raises:
        DeviceError: the file system refuses direct reads, or nothing proves that the reads reached the drive.
    """
    if not extents:
        raise DeviceError("drive probe: expected files to read, got none.")
    block_bytes = max(block_bytes // _PAGE * _PAGE, _PAGE)
    blocks = blocks_of(extents, block_bytes, seed=seed, order=order)
    if not direct:
        max_bytes = min(max_bytes, sum(block.length for block in blocks))
    files = _open_all(sorted({extent.path for extent in extents}), direct=direct, order=order)
    try:
        witness = DriveWitness.of(next(iter(files.values())))
        before = witness.count()
        reads = _read_all(blocks, files, depth, int(seconds * 1e9), max_bytes, repeat=direct)
        counted = witness.count() - before
    finally:
        for fd in files.values():
            os.close(fd)
    done, spent_ns = sum(read.nbytes for read in reads), max(read.end_ns for read in reads)
    if counted < _PROVEN * done:
        raise DeviceError(
            f"drive probe: read {format_size(done)}, but the kernel counted {format_size(counted)} from the drive: the "
            "reads were served from memory, so they say nothing about the drive. Put the bundle on a real drive."
        )
    p50, p99 = percentiles([read.spent_ns / 1e6 for read in reads], (50, 99))
    interval_s = max(seconds / _MOST_SAMPLES, 0.1)
    return DriveCeiling(
        gbps=round(done / spent_ns, 4),
        block_bytes=max(block.length for block in blocks),
        depth=depth,
        read_bytes=done,
        seconds=round(spent_ns / 1e9, 4),
        block_ms_p50=p50,
        block_ms_p99=p99,
        proven_by=witness.name,
        proven_bytes=counted,
        mode="direct" if direct else "buffered",
        order=order,
        interval_s=round(interval_s, 3),
        gbps_samples=_samples(reads, int(interval_s * 1e9), spent_ns),
    )


def _samples(reads: Sequence[_Read], interval_ns: int, spent_ns: int) -> tuple[float, ...]:
    """GB/s of each whole interval, by where reads ended."""
    totals = [0] * (spent_ns // interval_ns)
    for read in reads:
        if (place := read.end_ns // interval_ns) < len(totals):
            totals[place] += read.nbytes
    return tuple(round(total / interval_ns, 4) for total in totals)


def _open_all(paths: Sequence[Path], *, direct: bool, order: Order) -> dict[Path, int]:
    files: dict[Path, int] = {}
    try:
        for path in paths:
            fd = files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_DIRECT if direct else 0))
            if not direct:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                # the kernel's guess of what comes next would be read, and counted, on top
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM if order == "random" else os.POSIX_FADV_SEQUENTIAL)
    except OSError as err:
        for fd in files.values():
            os.close(fd)
        reason = "the file system refuses O_DIRECT" if err.errno == errno.EINVAL else str(err.strerror)
        raise DeviceError(f"drive probe: {path.name}: {reason}, so the drive cannot be told from memory.") from err
    return files


def _read_all(
    blocks: Sequence[Extent], files: dict[Path, int], depth: int, limit_ns: int, max_bytes: int, *, repeat: bool
) -> list[_Read]:
    """Read until time, bytes or, unless they repeat, blocks are used up; return every read, at least one a worker."""
    numbers = itertools.count() if repeat else iter(range(len(blocks)))
    reads: list[_Read] = []
    errors: list[OSError] = []
    total = [0] * depth
    memories = [_memory(max(block.length for block in blocks)) for _ in range(depth)]
    started = perf_counter_ns()

    def work(worker: int) -> None:
        with memories[worker] as memory, memoryview(memory) as view:
            try:
                is_first = True  # of this worker: on a busy machine the time may be over before it starts
                while is_first or (sum(total) < max_bytes and perf_counter_ns() - started < limit_ns):
                    is_first = False
                    number = next(numbers, None)
                    if number is None:
                        return
                    block = blocks[number % len(blocks)]
                    begun = perf_counter_ns()
                    with view[: block.length] as part:
                        size = os.preadv(files[block.path], [part], block.offset)
                    total[worker] += size
                    now = perf_counter_ns()
                    reads.append(_Read(now - started, now - begun, size))
            except OSError as err:
                errors.append(err)

    threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in range(depth)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise DeviceError(f"drive probe: a read failed: {errors[0].strerror}.") from errors[0]
    return reads


def _memory(size: int) -> mmap.mmap:
    """Return memory of the kind experts are read into: huge pages, touched before the clock starts."""
    whole = align_up(size, _HUGE)
    memory = huge_memory(whole)
    memory[::_PAGE] = b"\1" * (whole // _PAGE)
    return memory
