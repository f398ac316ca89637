"""One small expert, what the CPU computes of it, and its record on a drive, to be read past the page cache."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import logging
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_runtime.backends.cpu.kernels import ExpertEncoder, ExpertKernels
from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import ExpertSpec

HIDDEN, TIER = 256, 4
SPEC = ExpertSpec(intermediate=128)
_LOG = logging.getLogger(__name__)


class Sample(NamedTuple):
    """An expert.

    Attributes:
        record: its segments one after the other, each of whole pages.
        offsets: where the segments start.
        x: float32 [1, D], what enters it.
        y: float32 [1, D], what the CPU's kernels make of that.
    """

    record: bytes
    offsets: tuple[int, ...]
    x: F32
    y: F32


@cache
def make_sample() -> Sample:
    """Encode the expert, and compute it on the CPU."""
    rng = np.random.default_rng(0)
    encoder = ExpertEncoder(0, 0, HIDDEN, SPEC.intermediate, TIER // 2)
    for matrix, (rows, cols) in enumerate([(SPEC.intermediate, HIDDEN)] * 2 + [(HIDDEN, SPEC.intermediate)]):
        weights = rng.standard_normal((rows, cols), np.float32) / np.float32(np.sqrt(cols))
        encoder.add_rows(matrix, 0, weights, "f32")
    encoder.finish()
    segments = [np.array(encoder.segment(i)) for i in range(TIER // 2)]
    x, y = rng.standard_normal((1, HIDDEN), np.float32), np.zeros((1, HIDDEN), np.float32)
    addresses = np.zeros((1, 4), np.uint64)
    addresses[0, : len(segments)] = [encoder.segment(i).ctypes.data for i in range(TIER // 2)]
    zero = np.zeros(1, np.int32)
    kernels = ExpertKernels(HIDDEN, SPEC.intermediate, 1, 1)
    kernels.run_resident(x, zero[None], np.ones((1, 1), np.float32), TIER, addresses, zero, y)
    offsets = np.cumsum([0, *(len(segment) for segment in segments[:-1])]).tolist()
    return Sample(b"".join(segment.tobytes() for segment in segments), tuple(offsets), x, y)


@contextmanager
def on_drive(record: bytes, folder: Path) -> Iterator[int | None]:
    """Yield a file of a record that reads past the page cache; None where no file system at hand has such reads.

    Args:
        record: whole pages.
        folder: where the file is kept; one that goes away is made where that cannot be written.
    """
    fd = None
    try:
        fd = next((fd for fd in _files(record, folder) if _reads_past_the_cache(fd, record)), None)
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def read_into(fd: int, host: int, nbytes: int) -> None:
    """Read a file's start to an address of the host.

    Raises:
        OSError: the system refuses, as it does some memory of drivers (EFAULT).
    """
    done = os.preadv(fd, [(ctypes.c_ubyte * nbytes).from_address(host)], 0)
    if done != nbytes:
        raise OSError(0, f"{done} of {nbytes} bytes came")


def _files(record: bytes, folder: Path) -> Iterator[int]:
    """Yield files with the record in them: the one that is kept, and one for this once."""
    path = folder / f"sample-{hashlib.sha256(record).hexdigest()[:16]}.expert"
    try:
        yield _open_kept(path, record)
    except OSError as err:
        _LOG.debug("cuda: %s: %s", path, err.strerror)
    try:
        with tempfile.TemporaryFile() as file:
            file.write(record)
            file.flush()
            yield os.dup(file.fileno())
    except OSError as err:
        _LOG.debug("cuda: temporary file: %s", err.strerror)


def _open_kept(path: Path, record: bytes) -> int:
    """Open a file that holds the record; written if it does not."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
        if os.pread(fd, len(record) + 1, 0) == record:
            return fd
        os.close(fd)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(record)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    return os.open(path, flags)


def _reads_past_the_cache(fd: int, record: bytes) -> bool:
    """Let a file be read past the page cache from now on, and try that with ordinary memory; closes one that cannot."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
        with mmap.mmap(-1, len(record)) as pages:
            if os.preadv(fd, [pages], 0) == len(record) and pages[:] == record:
                return True
    except OSError as err:
        _LOG.debug("cuda: no reads past the page cache: %s", err.strerror)
    os.close(fd)
    return False
