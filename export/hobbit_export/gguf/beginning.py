"""The beginning of a file that is elsewhere, read as if it were here: the header of a GGUF file on a hub."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from hobbit_export.byte_files import ByteFiles

_READ_BYTES = 4 << 20


class Readable(Protocol):
    """What a header is read from."""

    def seek(self, offset: int, /) -> object:
        """Go to a byte."""
        ...

    def read(self, count: int, /) -> bytes:
        """Return the next bytes; fewer at the end alone."""
        ...


Opener = Callable[[], AbstractContextManager[Readable]]


class Beginning:
    """Bytes of one file up to the last that was asked for, fetched once and kept in a temporary file."""

    def __init__(self, files: ByteFiles, name: str) -> None:
        self._files, self._name, self._size = files, name, files.size(name)
        self._at = self._have = 0
        self._kept = tempfile.TemporaryFile()  # noqa: SIM115 - as long as this object
        weakref.finalize(self, self._kept.close)

    def seek(self, offset: int, /) -> None:
        """Go to a byte."""
        self._at = offset

    def read(self, count: int, /) -> bytes:
        """Return the next bytes; fewer at the end alone."""
        stop = min(self._at + count, self._size)
        while self._have < stop and self._fetch():
            pass
        self._kept.seek(self._at)
        found = self._kept.read(max(0, stop - self._at))
        self._at += len(found)
        return found

    def _fetch(self) -> int:
        data = memoryview(bytearray(min(_READ_BYTES, self._size - self._have)))
        got = self._files.read_into(self._name, self._have, data)
        self._kept.seek(self._have)
        self._kept.write(data[:got])
        self._have += got
        return got


def opener(path: Path, files: ByteFiles | None) -> tuple[int, Opener]:
    """Return the size of a file and how to open it.

    Args:
        path: of the file.
        files: where it is, if not there.
    """
    if files is None:
        return path.stat().st_size, lambda: open(path, "rb")
    beginning = Beginning(files, path.name)
    return files.size(path.name), lambda: nullcontext(beginning)
