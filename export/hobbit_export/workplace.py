"""The output folder: who may write there, what an earlier run left, and whether there is room."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_runtime.base.errors import BudgetError, ConfigError
from edge_runtime.base.sizes import format_size
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.manifest import FORMAT
from edge_runtime.bundle.manifest import NAME as MANIFEST
from hobbit_export import journal, parts
from hobbit_export.byte_files import HUB_BLOCKS
from hobbit_export.statistics.inputs import FOLDER as STATISTICS

_FOLDERS = ("experts", "trunk", "tokenizer", "router", "calibration", STATISTICS)
_OWN = {*_FOLDERS, MANIFEST, journal.NAME, parts.STAGING, HUB_BLOCKS}
_TEMPORARY = (MANIFEST + ".tmp", journal.NAME + ".tmp")


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Create the folder and hold it for this process.

    Raises:
        ConfigError: it cannot be created, or another export is writing to it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as err:
        raise ConfigError(f"--out {out}: cannot be used: {err.strerror}. Choose another folder.") from err
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        os.close(descriptor)
        raise ConfigError(
            f"--out {out}: another export is writing to it. Wait for it, or choose another folder."
        ) from err
    try:
        yield
    finally:
        os.close(descriptor)


def is_complete(out: Path) -> bool:
    """Whether a finished bundle is there."""
    return (out / MANIFEST).exists() and not (out / journal.NAME).exists()


def check_contents(out: Path) -> None:
    """Refuse a folder that holds anything an export did not write.

    Raises:
        ConfigError: names the stranger.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"--out {out}: expected a folder, found a file. Choose another path.")
    for entry in sorted(out.iterdir()):
        if entry.name not in _OWN and entry.name not in _TEMPORARY:
            raise ConfigError(
                f"--out {out}: expected an empty folder or a bundle, found {entry.name!r}. Choose another."
            )
        if entry.is_symlink():
            raise ConfigError(f"--out {out}: expected plain files, {entry.name!r} is a link. Choose another folder.")
    if any((out / f).exists() for f in _FOLDERS) and not any((out / n).exists() for n in (MANIFEST, journal.NAME)):
        raise ConfigError(f"--out {out}: holds folders of a bundle, but neither manifest nor journal. Choose another.")


def check_ours(out: Path) -> None:
    """Refuse to replace a folder whose manifest.json is not that of a bundle, damaged or not."""
    with open(out / MANIFEST, "rb") as file:
        if FORMAT.encode() not in file.read(manifest_file.MAX_MANIFEST_BYTES):
            raise ConfigError(f"--out {out}: its manifest.json is not that of a bundle. Choose another folder.")


def remove_manifest(out: Path) -> None:
    """Make an unfinished export look like one: an export that died at its very end left its manifest."""
    if (out / MANIFEST).exists():
        check_ours(out)
        (out / MANIFEST).unlink()
        parts.sync_folder(out)


def clear(out: Path) -> None:
    """Remove an earlier export; the manifest goes first, so that what is left half-way is no bundle."""
    (out / journal.NAME).touch()  # keeps a half-cleared folder recognisable as ours
    for name in (MANIFEST, *_TEMPORARY):
        (out / name).unlink(missing_ok=True)
    parts.sync_folder(out)
    for folder in (*_FOLDERS, parts.STAGING, HUB_BLOCKS):
        if (out / folder).exists():
            shutil.rmtree(out / folder)
    (out / journal.NAME).unlink(missing_ok=True)


def check_space(out: Path, needed_bytes: int) -> None:
    """Refuse to start what the drive cannot hold.

    Raises:
        BudgetError: with the bytes needed and free.
    """
    free = shutil.disk_usage(out).free
    if needed_bytes > free:
        raise BudgetError(
            f"--out {out}: the bundle needs {format_size(needed_bytes)} more ({needed_bytes} bytes), the drive has "
            f"{format_size(free)} free ({free} bytes). Free some space, or lower --tiers or --trunk."
        )


@contextmanager
def disk_full_explained(out: Path, needed_bytes: int) -> Iterator[None]:
    """Turn a full drive into a BudgetError; finished parts are kept, so that the export can resume."""
    try:
        yield
    except OSError as err:
        if err.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(out).free
        raise BudgetError(
            f"--out {out}: the drive is full: the bundle needs {needed_bytes} bytes in all, {free} are free. "
            "Free some space and run the same command again: finished parts are kept."
        ) from err
