"""The seam between weights and where their bytes lie: files of a folder, or of a repository not on this disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

HUB_BLOCKS = ".hub"
"""Folder below an unfinished bundle for parts of files that are elsewhere."""


class Received(NamedTuple):
    """A range of a file that came from elsewhere.

    Attributes:
        file: its name.
        start: first byte.
        stop: end (exclusive).
        digest: of what came, in hex.
    """

    file: str
    start: int
    stop: int
    digest: str


class ByteFiles(Protocol):
    """Weight files by name, read by ranges; several threads may read at a time."""

    @property
    def folder(self) -> Path:
        """A local folder that has the small files: configuration, index, tokenizer. Weight files may be elsewhere."""
        ...

    def names(self) -> set[str]:
        """Names of all files, those of weights too."""
        ...

    def size(self, name: str) -> int:
        """Bytes of a file."""
        ...

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill a buffer from an offset on; return how many bytes there were: fewer than asked for only at the end."""
        ...

    def read_many(self, ranges: Iterable[tuple[str, int, int]]) -> Iterator[bytes]:
        """Yield many small ranges (file, offset, bytes) in order; a file that ended early yields fewer bytes."""
        ...

    def stamp(self, name: str) -> list[Any]:
        """Plain data that differs if a file's content changed since."""
        ...

    @property
    def room_bytes(self) -> int | None:
        """The most an export may have on the drive beyond its bundle, what `kept_in` puts there too; None: no bound."""
        ...

    def kept_bytes(self, beside: int) -> int:
        """The most that `kept_in` puts on the drive, where `beside` bytes of other files may be there as well."""
        ...

    def kept_in(self, folder: Path, beside: int) -> AbstractContextManager[None]:
        """Meanwhile what is read may be kept below a folder, to read more at a time; see `kept_bytes`."""
        ...

    def received(self) -> list[Received]:
        """Return what came from elsewhere since the last call, so that a later run can recall it."""
        ...

    def recall(self, received: Iterable[Received]) -> None:
        """Remember what came in an earlier run of the same export.

        Raises:
            BundleError: the same range has come since, and was another one.
        """
        ...

    def provable(self) -> list[str]:
        """Names of the files that were read and whose store states digests of them, sorted."""
        ...

    def check_whole(self, name: str, progress: Callable[[float], None]) -> None:
        """Read a provable file once more, to its end, and compare it, and all that came of it, with that digest.

        Args:
            name: of the file.
            progress: told the share done, 0 to 1.

        Raises:
            BundleError: it is not that file, or was not when it was read.
        """
        ...

    def close(self) -> None:
        """Give back what is open."""
        ...


class LocalFiles:
    """`ByteFiles` of a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, int] = {}

    def names(self) -> set[str]:
        """Names of the files in the folder."""
        return {entry.name for entry in self.folder.iterdir() if entry.is_file()}

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return (self.folder / name).stat().st_size

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill a buffer from an offset on; return how many bytes there were."""
        descriptor = self._open.get(name)
        if descriptor is None:
            opened = os.open(self.folder / name, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            descriptor = self._open.setdefault(name, opened)
            if descriptor != opened:  # another thread was faster
                os.close(opened)
        done = 0
        while done < len(buffer):
            got = os.preadv(descriptor, [buffer[done:]], offset + done)
            if got <= 0:
                break
            done += got
        return done

    def read_many(self, ranges: Iterable[tuple[str, int, int]]) -> Iterator[bytes]:
        """Yield ranges one after the other."""
        for name, offset, count in ranges:
            out = bytearray(count)
            yield bytes(out[: self.read_into(name, offset, memoryview(out))])

    def stamp(self, name: str) -> list[Any]:
        """Size and time of the last change."""
        status = (self.folder / name).stat()
        return [status.st_size, status.st_mtime_ns]

    room_bytes = None

    def kept_bytes(self, beside: int) -> int:
        """Nothing: the files are here."""
        return 0

    def kept_in(self, folder: Path, beside: int) -> AbstractContextManager[None]:
        """Keep nothing."""
        return nullcontext()

    def received(self) -> list[Received]:
        """Return nothing: all is here."""
        return []

    def recall(self, received: Iterable[Received]) -> None:
        """Recall nothing."""

    def provable(self) -> list[str]:
        """Return nothing: a folder states no digests."""
        return []

    def check_whole(self, name: str, progress: Callable[[float], None]) -> None:
        """Compare nothing."""

    def close(self) -> None:
        """Close all files."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
