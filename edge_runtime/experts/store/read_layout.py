"""How reads of a record are cut into parts, and what a failed one says."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from edge_runtime.base.sizes import align_up
from edge_runtime.bundle.record import PAGE, RECORD_MAGIC
from edge_runtime.experts.drive import Fault

Detail = tuple[int, int, int, int, int, int, int, int, str]
"""What the drive reader says of a read that failed; see `edge_runtime.experts.drive`."""


@dataclass(frozen=True)
class ReadLayout:
    """How consecutive segments of a record are cut into reads; the same for every expert.

    Attributes:
        first: number of the first segment.
        start: its offset in the record.
        segments: (offset, bytes) of each segment, offsets from `start`.
        parts: (offset, bytes) of each read; near-equal, 4 KiB aligned, together all segments.
    """

    first: int
    start: int
    segments: tuple[tuple[int, int], ...]
    parts: tuple[tuple[int, int], ...]

    @staticmethod
    def make(record: tuple[int, ...], part_bytes: int, first: int = 0) -> ReadLayout:
        """Cut the segments from `first` on into parts of at most `part_bytes` (4 KiB at least).

        Args:
            record: bytes of each segment of the record, up to the last one read.
            part_bytes: most bytes of one read.
            first: number of the first segment read.
        """
        segment_bytes = record[first:]
        starts = [sum(segment_bytes[:i]) for i in range(len(segment_bytes))]
        segments = tuple(zip(starts, segment_bytes, strict=True))
        total = sum(segment_bytes)
        count = -(-total // max(part_bytes, PAGE))
        step = align_up(-(-total // count), PAGE)
        parts = tuple((at, min(step, total - at)) for at in range(0, total, step))
        return ReadLayout(first, sum(record[:first]), segments, parts)

    @property
    def nbytes(self) -> int:
        """Bytes of all segments."""
        at, size = self.segments[-1]
        return at + size


_NO_SUCH_MEMORY = (
    "The system does not read into this memory past its page cache: with --backend cuda, try cuda:memory=device."
)


def describe(fault: int, detail: Detail, layout: ReadLayout, size: int) -> str:
    """Say what went wrong with a read, to follow the name of its file.

    Args:
        fault: a `Fault`.
        detail: what the drive reader says of it.
        layout: of the read.
        size: bytes the file should have.
    """
    code, at, length, segment, expected, got, layer, expert, message = detail
    again = "Export the bundle again."
    if fault == Fault.SYSTEM:
        name = f"{errno.errorcode.get(code, '?')}, {os.strerror(code)}"
        advice = _NO_SUCH_MEMORY if code == errno.EFAULT else "Check the drive (dmesg)."
        return f"reading {length} bytes at {at} failed: {name}. {advice}"
    if fault == Fault.TOO_SHORT:
        return f"expected {length} bytes at {at}, got {got}: changed while in use. {again}"
    if fault == Fault.REMOVED:
        return "removed or replaced while in use. Put the file back."
    if fault == Fault.RESIZED:
        return f"expected {size} bytes, got {got}: changed while in use. {again}"
    if fault == Fault.CLOSED:
        return "the store was closed"
    if fault == Fault.CHECKSUM:
        return (
            f"segment {layout.first + segment}: expected checksum {expected:08x}, got {got:08x} (damaged). "
            f"Run hobbit verify; export the bundle again."
        )
    if fault == Fault.STAMP:
        magic = got.to_bytes(4, "little")
        if magic != RECORD_MAGIC:
            return f"expected the record of this expert, got one that starts with {magic!r}. {again}"
        return f"expected the record of this expert, got that of layer {layer}, expert {expert}. {again}"
    return message
