"""Private memory in huge pages: what experts are read into, and whatever is measured beside that."""

from __future__ import annotations

import contextlib
import ctypes
import mmap

_POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE, Linux 5.14: take pages as if they were written, their content untouched."""


def huge_memory(nbytes: int) -> mmap.mmap:
    """Reserve `nbytes` of zeroed private memory, in huge pages where the kernel has them; pages come when written.

    Into scattered pages of 4 KiB a drive gives about half as much. Shared memory would not get huge pages.

    Raises:
        OSError: the system refuses.
    """
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(AttributeError, OSError):  # a kernel without transparent huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def populate(address: int, nbytes: int) -> bool:
    """Take the pages of private memory from the system now, without changing what is in those that are there.

    Args:
        address: a multiple of the system's page size.
        nbytes: how many; other threads that map memory wait meanwhile. The interpreter's lock is not held.

    Returns:
        False where the kernel does not know this, or refuses: pages come when they are written.
    """
    madvise = ctypes.CDLL(None).madvise
    return bool(madvise(ctypes.c_void_p(address), ctypes.c_size_t(nbytes), _POPULATE_WRITE) == 0)
