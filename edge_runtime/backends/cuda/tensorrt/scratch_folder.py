"""A folder for a graph's weights while a plan is built of them. What a killed process leaves, the next one deletes.

Building needs much memory, and a board that has too little kills the process: without that its drive would fill up.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "building-"


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield a folder below `parent`, where there is a disk; where nothing can be written, in the system's place for it.

    It is locked while it is used: what is below `parent` and not locked was left by a process that is gone.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(parent):  # nobody takes a folder for left over that is not locked yet
            _remove_left_over(parent)
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            held = _lock(folder)
    except OSError:
        with tempfile.TemporaryDirectory(prefix=_PREFIX) as elsewhere:
            yield Path(elsewhere)
        return
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _remove_left_over(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError), _locked(folder, wait=False):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    descriptor = _lock(folder, wait=wait)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path, *, wait: bool = True) -> int:
    """Lock a folder until the descriptor that is returned is closed, at the end of the process at the latest."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
