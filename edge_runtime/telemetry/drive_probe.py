"""What the drive gives: direct reads of given places at a block size and depth, with proof that they reached the drive.

A probe that reads the page cache measures memory. So reads are O_DIRECT, and afterwards the kernel's own count of bytes
this process (or this device) fetched has to agree with what was read; if it does not, there is no result.
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
from typing import Any, NamedTuple

from edge_runtime.base.errors import DeviceError
from edge_runtime.base.huge_pages import huge_memory
from edge_runtime.base.sizes import GIB, align_up, format_size
from edge_runtime.telemetry.process import drive_bytes
from edge_runtime.telemetry.samples import percentiles

_PAGE = 4096
_HUGE = 2 << 20
_SECTOR = 512
_PROVEN = 0.98  # of the bytes asked for; the kernel counts whole sectors, so nothing is lost to rounding


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

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def blocks_of(extents: Sequence[Extent], block_bytes: int, *, seed: int) -> list[Extent]:
    """Return the extents in random order, each cut into reads of at most `block_bytes` from its start on."""
    order = list(extents)
    random.Random(seed).shuffle(order)  # noqa: S311 - an order, not a secret
    return [
        Extent(path, offset + at, min(block_bytes, length - at))
        for path, offset, length in order
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
) -> DriveCeiling:
    """Read extents in random order for `seconds`, again and again if they are few, `depth` reads at once.

    Raises:
        DeviceError: the file system refuses direct reads, or nothing proves that the reads reached the drive.
    """
    if not extents:
        raise DeviceError("drive probe: expected files to read, got none.")
    block_bytes = max(block_bytes // _PAGE * _PAGE, _PAGE)
    blocks = blocks_of(extents, block_bytes, seed=seed)
    files = _open_all(sorted({extent.path for extent in extents}))
    try:
        witness = _witness(next(iter(files.values())))
        before = _counted(witness)
        spent_ns, done, times = _read_all(blocks, files, depth, int(seconds * 1e9), max_bytes)
        counted = _counted(witness) - before
    finally:
        for fd in files.values():
            os.close(fd)
    if counted < _PROVEN * done:
        raise DeviceError(
            f"drive probe: read {format_size(done)}, but the kernel counted {format_size(counted)} from the drive: the "
            "reads were served from memory, so they say nothing about the drive. Put the bundle on a real drive."
        )
    p50, p99 = percentiles([ns / 1e6 for ns in times], (50, 99))
    return DriveCeiling(
        gbps=round(done / spent_ns, 4),
        block_bytes=max(block.length for block in blocks),
        depth=depth,
        read_bytes=done,
        seconds=round(spent_ns / 1e9, 4),
        block_ms_p50=p50,
        block_ms_p99=p99,
        proven_by=witness[0],
        proven_bytes=counted,
    )


def _open_all(paths: Sequence[Path]) -> dict[Path, int]:
    files: dict[Path, int] = {}
    try:
        for path in paths:
            files[path] = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as err:
        for fd in files.values():
            os.close(fd)
        reason = "the file system refuses O_DIRECT" if err.errno == errno.EINVAL else str(err.strerror)
        raise DeviceError(f"drive probe: {path.name}: {reason}, so the drive cannot be told from memory.") from err
    return files


def _read_all(
    blocks: Sequence[Extent], files: dict[Path, int], depth: int, limit_ns: int, max_bytes: int
) -> tuple[int, int, list[int]]:
    """Return nanoseconds from the first read's start to the last one's end, bytes read, and the time of each read."""
    numbers = itertools.count()
    times: list[int] = []
    ends: list[int] = []
    errors: list[OSError] = []
    total = [0] * depth
    memories = [_memory(max(block.length for block in blocks)) for _ in range(depth)]
    started = perf_counter_ns()

    def work(worker: int) -> None:
        with memories[worker] as memory, memoryview(memory) as view:
            try:
                while sum(total) < max_bytes and perf_counter_ns() - started < limit_ns:
                    block = blocks[next(numbers) % len(blocks)]
                    begun = perf_counter_ns()
                    with view[: block.length] as part:
                        total[worker] += os.preadv(files[block.path], [part], block.offset)
                    times.append(perf_counter_ns() - begun)
            except OSError as err:
                errors.append(err)
        ends.append(perf_counter_ns())

    threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in range(depth)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise DeviceError(f"drive probe: a direct read failed: {errors[0].strerror}.") from errors[0]
    return max(ends) - started, sum(total), times


def _memory(size: int) -> mmap.mmap:
    """Return memory of the kind experts are read into: huge pages, touched before the clock starts."""
    whole = align_up(size, _HUGE)
    memory = huge_memory(whole)
    memory[::_PAGE] = b"\1" * (whole // _PAGE)
    return memory


def _witness(fd: int) -> tuple[str, Path | None]:
    """Who counts what the drive delivers."""
    if drive_bytes() is not None:
        return "process", None
    device = os.fstat(fd).st_dev
    path = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    if path.exists():
        return "device", path
    raise DeviceError(
        "drive probe: neither /proc/self/io nor block statistics of the drive can be read, so nothing proves where "
        "bytes came from."
    )


def _counted(witness: tuple[str, Path | None]) -> int:
    path = witness[1]
    return drive_bytes() or 0 if path is None else sectors_read(path.read_text()) * _SECTOR


def sectors_read(stat: str) -> int:
    """Return the sectors read of a block device's `stat` file: its third number."""
    return int(stat.split()[2])
