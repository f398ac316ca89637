"""A file of the kernel that is read again and again: opened once, a reading is one system call."""

from __future__ import annotations

import os
from pathlib import Path

_LONGEST = 64


class SensorFile:
    """A number the kernel shows in a file.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> int | None:
        """Return the number now; None if the sensor does not answer or says no number."""
        try:
            return int(os.pread(self._fd, _LONGEST, 0))
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
