"""The folder of a bring-up belongs to one process at a time: two would measure each other."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_runtime.base.errors import ConfigError, RequestError

_LOCKS = Path("/proc/locks")
_PID, _FILE = -4, -3
"""Fields of a line of /proc/locks, from its end: a lock that waits has one more at its begin."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make the folder if it is not there, and hold it; the kernel lets it go when this process ends.

    Raises:
        ConfigError: another process holds it.
        RequestError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as err:
        raise RequestError(f"out: {folder}: cannot be made: {err.strerror}. Name another one.") from err
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        raise ConfigError(
            f"out: {folder}: {_holder(descriptor)} is measuring into it, and two at once would measure each other. "
            "Wait for it, or end it."
        ) from err
    except OSError:  # a file system without locks, such as NFS: nobody can be told apart there
        return


def _holder(descriptor: int) -> str:
    """Name the process that holds a file; "another process" where the kernel does not say which."""
    file = os.fstat(descriptor)
    key = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    try:
        lines = [line.split() for line in _LOCKS.read_text().splitlines()]
    except OSError:
        return "another process"
    found = next((words[_PID] for words in lines if "FLOCK" in words and words[_FILE] == key), "0")
    return f"process {found}" if int(found) > 0 else "another process"
