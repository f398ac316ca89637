"""The machine under all sides: what it is, page cache, read-ahead, what a process read, and its ceilings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_kernels import read_bandwidth
from benchmarks.compare.fio import find_fio, fio_gbps
from benchmarks.compare.workload import THREADS
from edge_runtime.backends.cpu.kernels import available_isas
from edge_runtime.base.errors import HobbitError
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.lab.bench.surroundings import record_extents
from edge_runtime.telemetry.drive_probe import DriveCeiling, probe_drive
from edge_runtime.telemetry.hardware import describe_hardware

_BUS_BYTES = 512 << 20
_PROBE_BYTES = 1 << 30


def identity(folder: Path, chosen_isa: str | None = None) -> dict[str, Any]:
    """Return what every result says of the machine: processor, cores, and the instruction set our kernels use.

    Args:
        folder: on the drive that is read.
        chosen_isa: the instruction set if it is not the best; the best one is then named too, so that these results
            are not mixed with those of a processor that has no better one.
    """
    found, best = describe_hardware(folder), available_isas()[0]
    here = {"cpu": found["cpu"] or found["machine"], "cpus": found["cpus"], "isa": chosen_isa or best}
    return here | ({"best_isa": best} if chosen_isa not in (None, best) else {})


def drop_caches() -> None:
    """Write dirty pages and empty the page cache.

    Raises:
        SystemExit: not allowed.
    """
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError as err:
        raise SystemExit(f"/proc/sys/vm/drop_caches: {err.strerror}. A cold start needs root.") from err


@contextmanager
def read_ahead(folder: Path, kib: int | None) -> Iterator[None]:
    """Set the read-ahead of the drive under a folder during a block; the old value comes back afterwards.

    Raises:
        OSError: it cannot be set.
    """
    if kib is None:
        yield
        return
    device = os.stat(folder).st_dev
    found = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    setting = (found if (found / "queue").is_dir() else found.parent) / "queue/read_ahead_kb"
    before = setting.read_text().strip()
    setting.write_text(str(kib))
    try:
        if setting.read_text().strip() != str(kib):
            raise OSError(0, "the kernel did not take the value", str(setting))
        yield
    finally:
        setting.write_text(before)


def read_by(pid: int) -> int | None:
    """Bytes a process made the storage layer fetch so far, page faults and read-ahead included; None if unknown."""
    try:
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("read_bytes:"):
                return int(line.split()[1])
    except OSError:
        pass
    return None


class Ceilings:
    """Measures what drive and memory bus give, shortly before each cell."""

    def __init__(self) -> None:
        self._buffer = np.ones(_BUS_BYTES, np.uint8)
        self._fio = find_fio()

    def bus_gbps(self) -> float:
        """Memory read bandwidth with as many threads as both sides use, in GB/s."""
        return round(read_bandwidth(self._buffer, THREADS), 2)

    def fio_gbps(self, bundle: Path, tier: int, *, block_bytes: int, depth: int) -> float | None:
        """Return what fio says of the same files at the same block size and depth; None where it is not installed."""
        files = sorted({extent.path for extent in record_extents(Bundle.open(bundle), tier)})
        return fio_gbps(self._fio, files, block_bytes=block_bytes, depth=depth)

    def drive(self, bundle: Path, tier: int, *, block_bytes: int, depth: int, seconds: float = 1.0) -> DriveCeiling:
        """Direct reads of expert records at the runtime's own block size and depth.

        Raises:
            SystemExit: nothing proves that the drive was read.
        """
        try:
            extents = record_extents(Bundle.open(bundle), tier)
            return probe_drive(
                extents, block_bytes=block_bytes, depth=depth, seconds=seconds, max_bytes=_PROBE_BYTES, seed=os.getpid()
            )
        except HobbitError as err:
            raise SystemExit(str(err)) from err
