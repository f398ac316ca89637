"""The drive probe reads what it says, as deep as it says, and refuses to call memory a drive."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_runtime.base.errors import DeviceError
from edge_runtime.telemetry import drive_probe
from edge_runtime.telemetry.drive_probe import Extent, blocks_of, probe_drive
from edge_runtime.telemetry.drive_witness import sectors_read
from edge_runtime.telemetry.process import drive_bytes

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def extents(tmp_path: Path) -> list[Extent]:
    """Records of 1 MiB in two files whose pages are all in the page cache."""
    found = []
    for name in ("a", "b"):
        path = tmp_path / name
        path.write_bytes(os.urandom(4 * MIB))
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        found += [Extent(path, at * MIB, MIB) for at in range(4)]
    return found


def needs_direct_io(extents: list[Extent]) -> None:
    try:
        fd = os.open(extents[0].path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        pytest.skip("NO DIRECT I/O in the temporary folder: the probe was not run on a real file system here")
    before = drive_bytes()
    os.preadv(fd, [memoryview(__import__("mmap").mmap(-1, 4096))], 0)
    os.close(fd)
    if before is None or drive_bytes() == before:
        pytest.skip("The temporary folder is not on a drive: the probe was not run on a real drive here")


def test_blocks_cover_every_extent_once_in_an_order_of_their_own():
    path = Path("x")
    found = blocks_of([Extent(path, n * 100_000, 10_000) for n in range(20)], 4096, seed=1)
    assert len(found) == 60
    assert {b.length for b in found} == {4096, 10_000 - 2 * 4096}
    assert sum(b.length for b in found) == 200_000
    starts = [b.offset for b in found if b.offset % 100_000 == 0]
    assert starts != sorted(starts)
    assert found == blocks_of([Extent(path, n * 100_000, 10_000) for n in range(20)], 4096, seed=1)


def test_a_cached_file_is_still_read_from_the_drive(extents):
    needs_direct_io(extents)
    before = drive_bytes()
    found = probe_drive(extents, block_bytes=256 * KIB, depth=3, seconds=5, max_bytes=6 * MIB)
    assert 6 * MIB <= found.read_bytes <= 6 * MIB + 3 * 256 * KIB
    assert found.proven_by == "process"
    assert found.proven_bytes >= found.read_bytes
    assert drive_bytes() - before >= found.read_bytes
    # seconds are rounded to 0.1 ms, and a fast drive needs only a few of them
    slowest, fastest = (found.read_bytes / (found.seconds + off) / 1e9 for off in (6e-5, -6e-5))
    assert slowest - 1e-4 <= found.gbps <= fastest + 1e-4
    assert (found.block_bytes, found.depth) == (256 * KIB, 3)
    small = probe_drive(extents, block_bytes=8 * MIB, depth=1, seconds=5, max_bytes=MIB)
    assert small.block_bytes == MIB, "what was read at once, not what was allowed"


def test_reads_the_kernel_did_not_fetch_are_no_result(extents, monkeypatch):
    """Buffered reads of a cached file: fast, and no figure of the drive."""
    monkeypatch.setattr(drive_probe.os, "O_DIRECT", 0)
    for extent in extents:
        extent.path.read_bytes()
    with pytest.raises(DeviceError, match="served from memory"):
        probe_drive(extents, block_bytes=256 * KIB, depth=2, seconds=0.2, max_bytes=4 * MIB)


def test_a_file_system_without_direct_io_is_named(extents, monkeypatch):
    def refuse(path, flags, *rest):
        raise OSError(22, "Invalid argument", str(path))

    monkeypatch.setattr(drive_probe.os, "open", refuse)
    with pytest.raises(DeviceError, match="refuses O_DIRECT"):
        probe_drive(extents, block_bytes=MIB, depth=1)


def test_a_failing_drive_is_an_error_and_not_a_slow_one(extents, monkeypatch):
    def fail(fd, buffers, offset):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(drive_probe.os, "preadv", fail)
    monkeypatch.setattr(drive_probe.os, "O_DIRECT", 0)
    with pytest.raises(DeviceError, match="Input/output error"):
        probe_drive(extents, block_bytes=MIB, depth=2)


def test_time_that_is_over_before_a_worker_starts_still_gives_a_read(extents):
    found = probe_drive(extents, block_bytes=256 * KIB, depth=2, seconds=0.0)
    assert found.read_bytes >= 256 * KIB


def test_nothing_to_read_is_refused():
    with pytest.raises(DeviceError, match="got none"):
        probe_drive([], block_bytes=MIB, depth=1)


def test_sectors_of_a_block_device():
    stat = "   10860     7374  2503642    14759     3790    23033  3582832    25516        0     7460    41580\n"
    assert sectors_read(stat) == 2503642


def test_in_sequence_blocks_come_by_file_and_offset():
    a, b = Path("a"), Path("b")
    found = blocks_of([Extent(b, 0, 8192), Extent(a, 8192, 4096), Extent(a, 0, 8192)], 4096, seed=1, order="sequential")
    assert [(x.path, x.offset) for x in found] == [(a, 0), (a, 4096), (a, 8192), (b, 0), (b, 4096)]


@pytest.mark.parametrize("order", ["random", "sequential"])
def test_buffered_reads_come_from_the_drive_once(extents, order):
    needs_direct_io(extents)
    for extent in extents:
        extent.path.read_bytes()
    found = probe_drive(extents, block_bytes=256 * KIB, depth=2, seconds=5, direct=False, order=order)
    assert found.read_bytes == 8 * MIB, "everything once, and then it would be the page cache"
    assert found.proven_bytes >= 0.98 * found.read_bytes
    assert (found.mode, found.order) == ("buffered", order)


def test_samples_of_a_probe_add_up_to_what_it_read(extents):
    needs_direct_io(extents)
    found = probe_drive(extents, block_bytes=64 * KIB, depth=2, seconds=0.45, max_bytes=1 << 40)
    assert found.interval_s == 0.1
    assert len(found.gbps_samples) == int(found.seconds / 0.1)
    assert sum(found.gbps_samples) * 0.1e9 <= found.read_bytes * 1.01
