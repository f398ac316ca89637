"""Read the values of a header one after the other, never past its end and never more than a bound says."""

from __future__ import annotations

import struct

from edge_runtime.base.errors import BundleError
from hobbit_export.ceiling import need_memory
from hobbit_export.gguf.beginning import Readable

FIX = "Download the file again."
_READ_BYTES = 1 << 20
_LARGE_BYTES, _COPIES = 1 << 12, 6
"""Of a string: from where on memory is asked for, and how often its bytes exist: in a buffer, alone, and as characters
of up to four bytes."""
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


class Cursor:
    """Where reading stands in a file.

    Attributes:
        where: the file's name, for messages.
        limit: bytes that may be read, from the start of the file.
    """

    def __init__(self, file: Readable, where: str, limit: int, start: int = 0) -> None:
        self.where = where
        self.limit = limit
        self._file = file
        self._buffer, self._pos = b"", 0
        self._buffer_start = start
        file.seek(start)

    @property
    def at(self) -> int:
        """Offset in the file of the next byte."""
        return self._buffer_start + self._pos

    def take(self, count: int, what: str) -> bytes:
        """Return the next bytes.

        Raises:
            BundleError: the header, or the file, ends before; `what` is named.
        """
        if self.at + count > self.limit:
            raise BundleError(
                f"{self.where}: {what}: expected {count} bytes at {self.at}, but the header ends at {self.limit} at "
                f"the latest. {FIX}"
            )
        if self._pos + count > len(self._buffer):
            self._fill(count, what)
        value = self._buffer[self._pos : self._pos + count]
        self._pos += count
        return value

    def skip(self, count: int, what: str) -> None:
        """Go past bytes that are read later, or not at all."""
        if self._pos + count <= len(self._buffer):
            self._pos += count
            return
        at = self.at + count
        if at > self.limit:
            self.take(count, what)
        self._buffer, self._pos, self._buffer_start = b"", 0, at
        self._file.seek(at)

    def u32(self, what: str) -> int:
        """Return the next 32-bit number."""
        return int(_U32.unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        """Return the next 64-bit number."""
        return int(_U64.unpack(self.take(8, what))[0])

    def string(self, what: str, most: int) -> str:
        """Return the next string.

        Raises:
            BundleError: it is longer than `most` bytes, or not UTF-8.
            BudgetError: it might not fit under the ceiling.
        """
        length = self.u64(what)
        if length > most:
            raise BundleError(f"{self.where}: {what}: expected a string of at most {most} bytes, got {length}. {FIX}")
        if length > _LARGE_BYTES:
            need_memory(_COPIES * length, f"{self.where}: {what}")
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError as err:
            raise BundleError(f"{self.where}: {what}: expected UTF-8, got {err.reason}. {FIX}") from err

    def skip_strings(self, count: int, what: str) -> None:
        """Go past strings, of which each is only measured."""
        for _ in range(count):
            self.skip(self.u64(what), what)

    def _fill(self, count: int, what: str) -> None:
        """Have at least `count` bytes in the buffer."""
        at = self.at
        kept = self._buffer[self._pos :]
        more = self._file.read(max(count - len(kept), min(_READ_BYTES, self.limit - at - len(kept))))
        self._buffer, self._pos, self._buffer_start = kept + more, 0, at
        if len(self._buffer) < count:
            raise BundleError(f"{self.where}: {what}: the file ended early. {FIX}")
