"""Finished files of a bundle: from a staging folder, hashed and on the drive, to their place in one rename."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from pathlib import Path

from edge_runtime.base.checksum import crc32c
from edge_runtime.base.errors import BundleError
from edge_runtime.bundle.cut import cuts_of
from edge_runtime.bundle.manifest import Part, Role

STAGING = ".partial"
_BLOCK = 1 << 20
_RECHECK_BYTES = 4 << 20
_REMOVALS, _PAUSE_S = 100, 0.1


def staging(bundle: Path, name: str) -> Path:
    """Return a new staging folder inside the bundle, on the same file system."""
    path = bundle / STAGING / name
    path.mkdir(parents=True)
    return path


def remove_staging(bundle: Path) -> None:
    """Remove what an interrupted step left."""
    path = bundle / STAGING
    if path.is_symlink():
        raise BundleError(f"{path}: expected a folder of this exporter, found a link. Remove it.")
    for _ in range(_REMOVALS):
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            if not path.exists():
                return
        except OSError as err:  # a worker elsewhere that does not know yet that it is over
            if err.errno != errno.ENOTEMPTY:
                raise
            time.sleep(_PAUSE_S)
        else:
            return
    raise BundleError(f"{path}: something writes there: another export? End it.")


def publish(bundle: Path, folder: Path, name: str, role: Role, layer: int | None = None) -> Part:
    """Hash a staged file, put it on the drive and move it to its place.

    The hashes are taken from the file as it can be read back, not from what was meant to be written.

    Args:
        bundle: the bundle.
        folder: the staging folder, where the file lies under the same name.
        name: path inside the bundle, with forward slashes.
        role: what the file is.
        layer: its layer, if it has one.
    """
    staged, final = folder / name, bundle / name
    hasher, crc, size = hashlib.sha256(), 0, 0

    def seen(block: bytes) -> None:
        nonlocal crc, size
        hasher.update(block)
        crc = crc32c(block, crc)
        size += len(block)

    with open(staged, "rb") as file:
        os.fsync(file.fileno())
        cuts = cuts_of(file, seen) if role == "experts" else []
        while block := file.read(_BLOCK):
            seen(block)
    final.parent.mkdir(parents=True, exist_ok=True)
    os.replace(staged, final)
    sync_folder(final.parent)
    sync_folder(bundle)
    return Part(name, role, size, hasher.hexdigest(), crc, layer, cuts)


def is_intact(bundle: Path, part: Part) -> bool:
    """Cheap check of a part finished earlier: a regular file of the right size, and its CRC where it is small."""
    path = bundle / part.name
    if path.is_symlink() or not path.is_file() or path.stat().st_size != part.bytes:
        return False
    return part.bytes > _RECHECK_BYTES or crc32c(path.read_bytes()) == part.crc32c


def sync_folder(path: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
