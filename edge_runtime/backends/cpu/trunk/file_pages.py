"""Pages of files that the system keeps in memory."""

from __future__ import annotations

import os
from pathlib import Path


def drop_cached_pages(path: Path) -> None:
    """Tell the system that a file's cached pages are not needed again: its content is now in our memory."""
    if not hasattr(os, "posix_fadvise"):
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
