"""Expert files of a bundle, held open: direct or buffered reads, and proof that a file is still the one opened."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.base.errors import BundleError, ExpertReadError
from edge_runtime.bundle.bundle import Bundle, reading
from edge_runtime.bundle.expert_file import ExpertFileHeader, pack_header
from edge_runtime.bundle.part_names import expert_file
from edge_runtime.bundle.record import PAGE

_log = logging.getLogger(__name__)


class FileOps:
    """The system calls used on expert files; tests replace them to make a drive fail."""

    def open(self, path: Path, flags: int) -> int:
        """Open a file."""
        return os.open(path, flags)

    preadv: Callable[[int, memoryview, int], int] | None = None
    """preadv(fd, into, offset) instead of the drive reader's own; the bytes that came."""


@dataclass
class OpenFile:
    """An expert file held open."""

    path: Path
    name: str
    header: ExpertFileHeader
    fd: int
    identity: tuple[int, int]


class ExpertFiles:
    """The expert files of one tier, one per sparse layer.

    Args:
        bundle: an open bundle.
        tier: 2, 4, 6, 8 (the progressive files) or 16 (the bfloat16 files).
        direct_io: read past the page cache with O_DIRECT. If the file system refuses, reads are buffered, one warning
            is logged and `mode` says so.
        ops: system calls.

    Raises:
        BundleError: a file is missing or its header lies.
    """

    def __init__(self, bundle: Bundle, tier: int, *, direct_io: bool, ops: FileOps | None = None) -> None:
        self._bundle, self._tier, self._ops = bundle, tier, ops or FileOps()
        self._direct = direct_io
        self.mode = "direct" if direct_io else "buffered"
        self._files: dict[int, OpenFile] = {}
        try:
            for layer_idx in bundle.manifest.model.sparse_layers:
                self._files[layer_idx] = self._open(layer_idx)
            self._probe()
        except OSError as err:
            self.close()
            raise BundleError(f"{err.filename}: cannot be opened: {err.strerror}.") from err
        except BaseException:
            self.close()
            raise

    @property
    def is_direct(self) -> bool:
        """Whether reads go past the page cache."""
        return self._direct

    def open_file(self, layer_idx: int) -> OpenFile:
        """Return a layer's file."""
        return self._files[layer_idx]

    def opened(self) -> Iterator[tuple[int, OpenFile]]:
        """Yield (layer, file) of all."""
        yield from self._files.items()

    def name(self, layer_idx: int) -> str:
        """Name of a layer's file inside the bundle."""
        return self._files[layer_idx].name

    def check_paths(self) -> None:
        """Check that every path still leads to the file that is open; reopen a file that came back unchanged.

        Raises:
            ExpertReadError: a file is missing, or another one took its place.
        """
        for layer_idx, file in self._files.items():
            try:
                found = os.stat(file.path)
            except OSError as err:
                raise ExpertReadError(
                    f"{file.name}: removed while in use ({err.strerror}). Put the file back."
                ) from err
            if (found.st_dev, found.st_ino) != file.identity or found.st_size != file.header.file_bytes:
                self._reopen(layer_idx, file)

    def close(self) -> None:
        """Close every file."""
        files, self._files = self._files, {}
        for file in files.values():
            os.close(file.fd)

    def _open(self, layer_idx: int) -> OpenFile:
        name = expert_file(layer_idx, self._tier)
        header = self._bundle.expert_header(layer_idx, self._tier)
        path = self._bundle.path / name
        with reading(name):
            fd = self._open_fd(path)
            found = os.fstat(fd)
            if not self._direct:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        return OpenFile(path, name, header, fd, (found.st_dev, found.st_ino))

    def _open_fd(self, path: Path) -> int:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        if self._direct:
            try:
                return self._ops.open(path, flags | os.O_DIRECT)
            except OSError as err:
                if err.errno != errno.EINVAL:
                    raise
                self._fall_back(path)
        return self._ops.open(path, flags)

    def _probe(self) -> None:
        """Read one block, as some file systems take O_DIRECT at open and refuse it at the first read."""
        if not self._direct:
            return
        import mmap

        file = next(iter(self._files.values()))
        page = mmap.mmap(-1, PAGE)
        read = self._ops.preadv or (lambda fd, into, offset: os.preadv(fd, [into], offset))
        try:
            read(file.fd, memoryview(page), 0)
        except OSError as err:
            if err.errno != errno.EINVAL:
                raise BundleError(f"{file.name}: cannot be read: {err.strerror}. Check the drive (dmesg).") from err
            self._fall_back(file.path)

    def _fall_back(self, path: Path) -> None:
        self._direct, self.mode = False, "buffered (the file system refuses O_DIRECT)"
        for file in self._files.values():
            fcntl.fcntl(file.fd, fcntl.F_SETFL, fcntl.fcntl(file.fd, fcntl.F_GETFL) & ~os.O_DIRECT)
            os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_RANDOM)
        _log.warning(
            "%s: the file system refuses O_DIRECT, so experts are read through the page cache, which is slower and "
            "takes memory from other programs. Put the bundle on ext4 or xfs, or pass --no-direct-io to accept it.",
            path,
        )

    def _reopen(self, layer_idx: int, file: OpenFile) -> None:
        try:
            fresh = self._open(layer_idx)
        except (OSError, BundleError) as err:
            raise ExpertReadError(f"{file.name}: changed while in use: {err}") from err
        if pack_header(fresh.header) != pack_header(file.header):
            os.close(fresh.fd)
            raise ExpertReadError(
                f"{file.name}: replaced by a different file while in use. Restart with the new bundle."
            )
        os.close(file.fd)
        self._files[layer_idx] = fresh
        _log.info("%s: reopened, its header is unchanged", file.name)
