"""Opening files of a bundle: the listed ones only, regular, of the listed size, never through a link.

A bundle is untrusted. A name may lead to a pipe that never answers, a device, a link to somebody else's file, or a
sparse file of a terabyte; all of that is found out before the first byte is read.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from edge_runtime.base.errors import BundleError

_AGAIN = "Export the bundle again."
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a pipe that took the file's place after the look at it must not wait for a writer
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LARGE_BYTES, _BLOCK_BYTES, _MOST_EMPTY = 1 << 30, 512, 256
"""A sparse file of a terabyte takes no room and an hour to hash. Weights are not compressed to a 256th by any drive."""
Value = TypeVar("Value")


def open_regular(root: Path, name: str, size: int | None = None, *, more_flags: int = 0) -> int:
    """Open a file below `root` for reading.

    Args:
        root: the bundle's folder; it may itself be reached through links.
        name: path inside the folder, with forward slashes.
        size: the size it must have, in bytes; None for any.
        more_flags: added to the flags of `open`, such as O_DIRECT.

    Returns:
        A descriptor. The caller closes it.

    Raises:
        BundleError: missing, not a regular file, behind a link, or of another size; named.
        OSError: only EINVAL, where the file system refuses `more_flags`.
    """
    *folders, last = name.split("/")
    here = _guarded(name, lambda: os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    try:
        for folder in folders:
            below = _open_folder(name, folder, here)
            os.close(here)
            here = below
        return _open_file(name, last, here, size, more_flags)
    finally:
        os.close(here)


def read_regular(root: Path, name: str, size: int | None = None, *, limit: int) -> bytes:
    """Read a whole file below `root`.

    Args:
        root: see `open_regular`.
        name: see `open_regular`.
        size: see `open_regular`.
        limit: most bytes it may have; checked before anything is read.

    Raises:
        BundleError: see `open_regular`; or it is larger than the limit, or cannot be read.
    """
    descriptor = open_regular(root, name, size)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor).st_size
        if found > limit:
            raise BundleError(f"{name}: expected at most {limit} bytes, got {found}. {_AGAIN}")
        data = _guarded(name, lambda: file.read(found + 1))
    if len(data) != found:
        raise BundleError(f"{name}: expected {found} bytes, read {len(data)} (changed while reading). {_AGAIN}")
    return data


def unlisted(root: Path, listed: set[str]) -> list[str]:
    """Return the files and links below `root` that are not in `listed`, sorted: they are never read."""
    found = []
    for folder, folders, files in os.walk(root):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        found += [str((Path(folder) / name).relative_to(root)) for name in (*files, *links)]
    return sorted(set(found) - listed)


def _open_folder(name: str, folder: str, here: int) -> int:
    try:
        return os.open(folder, _FOLDER, dir_fd=here)
    except NotADirectoryError as err:
        if stat.S_ISLNK(os.lstat(folder, dir_fd=here).st_mode):
            raise _link(name) from err
        raise BundleError(f"{name}: cannot be opened: {err.strerror}. {_AGAIN}") from err
    except OSError as err:
        raise BundleError(f"{name}: cannot be opened: {err.strerror}. {_AGAIN}") from err


def _open_file(name: str, last: str, here: int, size: int | None, more_flags: int) -> int:
    # looked at before it is opened: opening a device can already do something
    _check(name, _guarded(name, lambda: os.stat(last, dir_fd=here, follow_symlinks=False)), size)
    try:
        descriptor = os.open(last, _FILE | more_flags, dir_fd=here)
    except OSError as err:
        if more_flags and err.errno == errno.EINVAL:
            raise
        raise BundleError(f"{name}: cannot be opened: {err.strerror}. {_AGAIN}") from err
    try:
        _check(name, os.fstat(descriptor), size)
        os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check(name: str, found: os.stat_result, size: int | None) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise _link(name)
    if not stat.S_ISREG(found.st_mode):
        raise BundleError(f"{name}: expected a regular file, found {_kind(found.st_mode)}. {_AGAIN}")
    if size is not None and found.st_size != size:
        what = "truncated" if found.st_size < size else "too long"
        raise BundleError(f"{name}: expected {size} bytes, got {found.st_size} ({what}). {_AGAIN}")
    if (
        size is not None
        and found.st_size >= _LARGE_BYTES
        and found.st_blocks * _BLOCK_BYTES < found.st_size // _MOST_EMPTY
    ):
        raise BundleError(f"{name}: expected a file with content, found {found.st_size} bytes of nothing. {_AGAIN}")


def _link(name: str) -> BundleError:
    return BundleError(f"{name}: expected a plain file inside the bundle, found a link leading elsewhere. {_AGAIN}")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFIFO: "a pipe", stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket",
        stat.S_IFBLK: "a device", stat.S_IFCHR: "a device",
    }  # fmt: skip
    return kinds.get(stat.S_IFMT(mode), "something else")


def _guarded(name: str, action: Callable[[], Value]) -> Value:
    try:
        return action()
    except OSError as err:
        raise BundleError(f"{name}: cannot be opened or read: {err.strerror}. {_AGAIN}") from err
