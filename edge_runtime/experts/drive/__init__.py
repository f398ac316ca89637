"""The native drive reader: reads of expert records, many at once, checked where they land.

`DriveReader(depth, drop_cached, use_uring=True, read=None)`
    Keeps up to `depth` parts under way: through io_uring where the kernel has it and allows it, else with `depth`
    threads in preadv; `method` says which and why, and if the system gives fewer threads. RuntimeError: it gives none.
    A ring that fails for a second without a success is given up: what the kernel had not taken is read again, and
    threads go on. Both give the same bytes, errors and counts.
    `drop_cached` tells the system after each part that its pages are not needed (for files not opened with O_DIRECT).
    `read(fd, memoryview, offset) -> bytes that came` replaces preadv, with threads; for tests of failing drives.
    add_layout(segments, parts) -> layout
        How reads of one kind are cut: (start, bytes) of up to 4 segments and of the parts, from the read's first byte.
    submit(id, priority, layout, fd, file_bytes, offset, targets, checksums, has_stamp, layer, expert)
        Queue a read of the layout's bytes at `offset` of `fd`; its file must still have `file_bytes` bytes and a name.
        targets: (address, bytes) of the memory the segments go to, one after the other; with O_DIRECT 4 KiB aligned. It
        must stay valid until the read is done. checksums: CRC-32C of each segment. has_stamp: segment 0 starts with
        "HBR1", layer and expert.
    set_file(layer, fd, file_bytes, first_record, record_bytes, checksums, has_stamp), set_layout(first, last, layout)
        Where a layer's records are, with checksums uint32 [E, segments], and how a read of segments `first` to
        `last` - 1 is cut: for `port`, and before the reads concerned.
    port()                      what native code asks for records by layer and expert; valid as long as this object.
    wait(timeout_s)
        [(id, fault, elapsed_ns, detail)] of all reads done and not forgotten, waiting for one; [] after the time.
        `fault` is a `Fault`; detail = (code, at, bytes, segment, expected, got, layer, expert, message).
    forget(id)                  the caller knows that it is done.
    cancel(id)                read no further. True: nothing of it is under way, it is gone. False: parts are; it
                                will be done after them, as `Fault.CANCELLED` unless they were its last ones.
    promote(id, priority)       move a queued read forward (lower is sooner); False: there was nothing to move.
    stats()                     (reads done well, bytes read, nanoseconds with at least one part under way); the first
                                two of reads that were forgotten or cancelled.
    close(timeout_s)            fail what is queued and wait for the rest; False: a read did not come back.

Parts start in order of priority, then of arrival; those of a priority other than 0 only while less than half of the
depth is under way, because they may be cancelled. Calls are safe from any thread and release the GIL while waiting.
"""

from __future__ import annotations

import enum

try:
    from edge_runtime.experts.drive._native import DriveReader
except ImportError as err:
    from edge_runtime.base.errors import DeviceError, missing_extension

    raise DeviceError(missing_extension("edge_runtime.experts.drive", err)) from err

__all__ = ["DriveReader", "Fault"]


class Fault(enum.IntEnum):
    """Why a read failed; the numbers are those of src/reader.hpp."""

    NONE = 0
    SYSTEM = 1
    TOO_SHORT = 2
    CHECKSUM = 3
    STAMP = 4
    REMOVED = 5
    RESIZED = 6
    CLOSED = 7
    RAISED = 8
    CANCELLED = 9
