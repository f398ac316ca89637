"""One file while it arrives: what is here so far was compared with its checksums, and it shows only once all was.

It grows from its start to its end below another name. Its checkpoints are the ends of segments of experts' records,
whose CRC-32C stand in the file's header; of other files the end. What does not match is cut off again at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from edge_runtime.base.checksum import crc32c
from edge_runtime.base.errors import BundleError
from edge_runtime.bundle.expert_file import ExpertFileHeader, pack_header
from edge_runtime.bundle.manifest import Part

PARTIAL = ".part"
_BLOCK = 1 << 20
_FLUSH_BYTES = 64 << 20
"""Written at a time to the drive, so that a download does not fill the page cache of a machine that serves."""


class Damaged(Exception):
    """What arrived is not what its checksum says; the file was cut back to where it is right."""


class Arriving:
    """A file below `folder` that becomes `folder/part.name` by `finish`. Use as a context manager.

    Args:
        folder: of the bundle that grows.
        part: what the file has to be.
        header: of an expert file; its bytes are written first.

    Attributes:
        at: bytes that are here and right, or are being compared.
    """

    def __init__(self, folder: Path, part: Part, header: ExpertFileHeader | None = None) -> None:
        self._part, self._header, self._final = part, header, folder / part.name
        self._final.parent.mkdir(parents=True, exist_ok=True)
        self._path = self._final.with_name(self._final.name + PARTIAL)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o644)
        self._flushed = 0
        self._begin()

    def __enter__(self) -> Arriving:
        """Take up what an earlier run left."""
        found = os.fstat(self._file).st_size
        if self._header is not None and found == 0:
            self.add(pack_header(self._header))
            return self
        try:
            while self.at < found and (block := os.pread(self._file, min(_BLOCK, found - self.at), self.at)):
                self._take(memoryview(block))
        except Damaged:
            pass
        os.ftruncate(self._file, self.at)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it; what is here stays."""
        os.close(self._file)

    def add(self, data: bytes) -> None:
        """Append what arrived.

        Raises:
            Damaged: it does not match.
        """
        view, at = memoryview(data), self.at
        while view:
            count = os.pwrite(self._file, view, at)
            view, at = view[count:], at + count
        try:
            self._take(memoryview(data))
        except Damaged:
            os.ftruncate(self._file, self.at)
            raise
        if self.at - self._flushed >= _FLUSH_BYTES:
            self._flush()

    def restart(self) -> None:
        """Forget everything."""
        os.ftruncate(self._file, 0)
        self._flushed = 0
        self._begin()
        if self._header is not None:
            self.add(pack_header(self._header))

    def finish(self) -> None:
        """Compare the whole file with the manifest and give it its name, on the drive.

        Raises:
            Damaged: it is another file; it was emptied.
        """
        if self._sha.hexdigest() != self._part.sha256 or self.at != self._part.bytes:
            found = self._sha.hexdigest()
            self.restart()
            raise Damaged(f"expected SHA-256 {self._part.sha256[:16]}..., got {found[:16]}...")
        self._flush()
        os.rename(self._path, self._final)

    def _begin(self) -> None:
        self.at = self._start = self._crc = 0
        self._sha = self._safe_sha = hashlib.sha256()
        self._checkpoints = self._all_checkpoints()
        self._next()

    def _all_checkpoints(self) -> Iterator[tuple[int, int, str]]:
        """Yield end, CRC-32C and name of each segment."""
        if self._header is None:
            yield self._part.bytes, self._part.crc32c, ""
            return
        header = self._header
        yield header.header_bytes, crc32c(pack_header(header)), "header"
        at = header.header_bytes
        for expert_idx in range(header.num_experts):
            for segment, size in enumerate(header.segment_bytes):
                at += size
                yield at, int(header.checksums[expert_idx, segment]), f"expert {expert_idx} segment {segment}"

    def _next(self) -> None:
        self._start, self._crc, self._safe_sha = self.at, 0, self._sha.copy()
        self._until, self._wanted, self._what = next(self._checkpoints, (self._part.bytes, 0, ""))

    def _take(self, data: memoryview) -> None:
        """Compare what begins at `at`."""
        while data:
            if self.at == self._part.bytes:
                raise Damaged(f"expected {self._part.bytes} bytes, got more")
            block = data[: self._until - self.at]
            self._sha.update(block)
            self._crc = crc32c(block, self._crc)
            self.at += len(block)
            data = data[len(block) :]
            if self.at == self._until:
                self._end_segment()

    def _end_segment(self) -> None:
        if self._crc != self._wanted:
            what, got, wanted = self._what, self._crc, self._wanted
            self.at, self._crc, self._sha = self._start, 0, self._safe_sha.copy()
            raise Damaged(f"{what + ': ' if what else ''}expected CRC-32C {wanted:08x}, got {got:08x}")
        self._next()

    def _flush(self) -> None:
        os.fdatasync(self._file)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file, 0, self.at, os.POSIX_FADV_DONTNEED)
        self._flushed = self.at


def local_header(folder: Path, part: Part, limit: int) -> bytes:
    """Return the beginning of a file that an earlier run left, or nothing."""
    path = folder / (part.name + PARTIAL)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    except OSError as err:
        raise BundleError(f"{path}: cannot be opened: {err.strerror}. Remove it.") from err
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit)
