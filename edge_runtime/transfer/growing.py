"""The folder of a bundle that grows: which parts are whole, whether the rest has room, and its manifest at the end."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_runtime.base.errors import BudgetError
from edge_runtime.base.sizes import format_size
from edge_runtime.bundle.manifest import NAME as MANIFEST
from edge_runtime.bundle.manifest import Part
from edge_runtime.transfer.arriving import PARTIAL

_SPARE_BYTES = 16 << 20
"""Left to the file system's own needs."""


def is_whole(folder: Path, part: Part) -> bool:
    """Whether a part arrived in an earlier run: it has its name only since it was compared and put on the drive."""
    path = folder / part.name
    return path.is_file() and not path.is_symlink() and path.stat().st_size == part.bytes


def partial_bytes(folder: Path, part: Part) -> int:
    """Return the bytes that are here of a part that is not whole."""
    path = folder / (part.name + PARTIAL)
    return min(path.lstat().st_size, part.bytes) if path.exists() else 0


def remove_strangers(folder: Path, names: set[str]) -> None:
    """Delete what is no part of this bundle: nothing else may become visible with it."""
    expected = {*names, *(name + PARTIAL for name in names)}
    for path in folder.rglob("*"):
        if (path.is_symlink() or not path.is_dir()) and path.relative_to(folder).as_posix() not in expected:
            path.unlink()


def check_space(folder: Path, needed: int) -> None:
    """Refuse what the drive cannot hold.

    Raises:
        BudgetError: with the bytes needed and free.
    """
    free = shutil.disk_usage(folder).free
    if needed + _SPARE_BYTES > free:
        raise BudgetError(
            f"{folder}: the bundle needs {format_size(needed)} more ({needed} bytes), the drive has "
            f"{format_size(free)} free ({free} bytes). Free some space, take fewer --tiers, or choose another drive "
            "with --models."
        )


@contextmanager
def full_drive_explained(folder: Path, size: int) -> Iterator[None]:
    """Turn a full drive into a BudgetError."""
    try:
        yield
    except OSError as err:
        if err.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(folder).free
        raise BudgetError(
            f"{folder}: the drive is full: the bundle needs {size} bytes in all, {free} are free. "
            "Free some space and run the same command again: what arrived is kept."
        ) from err


def write_manifest(folder: Path, raw: bytes) -> None:
    """Write the manifest, then make sure that all of the folder is on the drive."""
    with open(folder / MANIFEST, "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    for path in (folder, *(each for each in folder.rglob("*") if each.is_dir())):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
