"""Private memory in huge pages: what experts are read into, and whatever is measured beside that."""

from __future__ import annotations

import contextlib
import mmap


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
