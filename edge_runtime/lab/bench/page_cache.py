"""What of a bundle lies in the page cache: dropped by `posix_fadvise`, and proven by `mincore`.

`mincore` tells the truth only to who owns a file or may write to it; to others the kernel (since 5.2) says that every
page is there. Then nothing can be proven, and that is said.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import NamedTuple

import numpy as np

from edge_runtime.base.errors import RequestError
from edge_runtime.base.sizes import GIB

_PAGE = mmap.PAGESIZE
_WINDOW = GIB
COLD_SHARE = 0.01
"""More than that of a bundle in the page cache is not cold."""
_TRIES, _PAUSE_S = 5, 0.1


class PageCache(NamedTuple):
    """How much of some files lies in the page cache.

    Attributes:
        file_bytes: of the files.
        cached_bytes: of those, in whole pages; None where the kernel does not say.
    """

    file_bytes: int
    cached_bytes: int | None

    @property
    def share(self) -> float | None:
        """The part of the bytes that is cached."""
        return None if self.cached_bytes is None else self.cached_bytes / max(self.file_bytes, 1)


def drop_page_cache(folder: Path, pause_s: float = _PAUSE_S) -> PageCache:
    """Make the kernel forget the pages of every file in a folder; needs no privilege. Return what is left.

    Args:
        folder: whose files.
        pause_s: before the third try, and so much longer before each further one.

    Raises:
        RequestError: a part of them stays, so a run from here would not be a cold one.
    """
    for attempt in range(_TRIES):
        for path in _files(folder):
            _forget(path)
        left = page_cache_of(folder)
        if left.share is None or left.share <= COLD_SHARE:
            return left
        sleep(pause_s * attempt)
    raise RequestError(
        f"cache: cold: {100 * (left.share or 0):.0f} % of {folder} stays in memory though it was dropped: another "
        "process maps its files, or they lie on a file system in memory. End that process, move the bundle to a drive, "
        "or measure with --cache warm."
    )


def page_cache_of(folder: Path) -> PageCache:
    """Return how much of a folder's files lies in the page cache."""
    total, cached, is_known = 0, 0, True
    for path in _files(folder):
        size = path.stat().st_size
        pages = _cached_bytes(path, size)
        total += size
        is_known = is_known and pages is not None
        cached += pages or 0
    return PageCache(total, cached if is_known else None)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _forget(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)  # pages that are not on the drive yet cannot be dropped
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _cached_bytes(path: Path, size: int) -> int | None:
    """Return the cached bytes of a file; None if the kernel would not tell the truth."""
    if not (os.access(path, os.W_OK) or path.stat().st_uid == os.geteuid()):
        return None
    cached = 0
    with open(path, "rb") as file:
        for start in range(0, size, _WINDOW):
            pages = _cached_pages(file.fileno(), start, min(_WINDOW, size - start))
            if pages is None:
                return None
            cached += min(pages * _PAGE, size)
    return cached


def _cached_pages(fd: int, start: int, length: int) -> int | None:
    with mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=start) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        found = np.empty(-(-length // _PAGE), np.uint8)
        failed = _mincore()(view.ctypes.data, length, found.ctypes.data)
        del view  # or the mapping cannot be closed
    return None if failed else int((found & 1).sum())


def _mincore() -> ctypes._NamedFuncPointer:
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    return mincore
