"""Reads small files of /proc and /sys, once or again and again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

_MOST_BYTES = 1 << 16
Read = Callable[[Path], bytes]
"""Returns a file's content; b"" where there is none, or it cannot be read."""


def read_file(path: Path) -> bytes:
    """Return the content of a file, at most 64 KiB; b"" where it cannot be read. A `Read`."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(_MOST_BYTES) or b""
    except OSError:
        return b""


class KeptFiles:
    """Reads the same files again and again, and keeps them open meanwhile. For one thread.

    Opening a file of /proc takes several times what reading it does. A file that is not there counts as absent until
    `close`.
    """

    def __init__(self) -> None:
        self._open: dict[Path, int | None] = {}

    def read(self, path: Path) -> bytes:
        """Return the content of a file as it is now, as `read_file` does. A `Read`."""
        try:
            file = self._open[path]
        except KeyError:
            file = self._open[path] = _opened(path)
        if file is None:
            return b""
        try:
            return os.pread(file, _MOST_BYTES, 0)
        except OSError:  # the kernel has it, but switched off; or its cgroup is gone
            return b""

    def close(self) -> None:
        """Close all files; what is read later is opened anew. Safe to call twice."""
        kept, self._open = self._open, {}
        for file in kept.values():
            if file is not None:
                os.close(file)


def _opened(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
