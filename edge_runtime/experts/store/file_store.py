"""FileExpertStore: segments of records straight from the drive into given memory, every segment checked on the way."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from edge_runtime.backends.memory import ByteRange, KeepsBytes
from edge_runtime.base.errors import DeviceError, ExpertReadError, ExpertRecordError
from edge_runtime.base.sizes import MIB
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.record import BF16
from edge_runtime.experts.drive import DriveReader, Fault
from edge_runtime.experts.store.base import (
    DEFAULT_READ_TIMEOUT_S,
    ExpertKey,
    NativeReads,
    Priority,
    ReadCancelled,
    ReadTicket,
    SegmentRange,
    StoreStats,
)
from edge_runtime.experts.store.files import ExpertFiles, FileOps
from edge_runtime.experts.store.read_layout import Detail, ReadLayout, describe

DEFAULT_PART_BYTES = MIB
DEFAULT_IO_THREADS = 8
_NEVER_RETURNED: list[ReadTicket] = []
_SIGNALS_S = 0.1  # a wait is interrupted by Ctrl-C no later than this


class _Read(ReadTicket):
    """A ticket with the number the drive reader knows it by, and what it reads."""

    def __init__(
        self,
        number: int,
        key: ExpertKey,
        into: Sequence[ByteRange],
        priority: Priority,
        tag: int,
        segments: SegmentRange,
    ) -> None:
        super().__init__(key, into, priority, tag)
        self.number, self.segments = number, segments


class FileExpertStore:
    """Reads experts of a bundle through the native drive reader. Implements `ExpertStore`.

    A read is known here from before it is queued until its ticket is done, so that it can be found and awaited after an
    interrupt.

    Args:
        bundle: an open bundle.
        tier: the deepest tier read: 2, 4, 6, 8, or 16 for the bfloat16 files.
        io_threads: parts under way at once, with or without a thread each; half as many for reads ahead.
        direct_io: read past the page cache; see `ExpertFiles`.
        use_uring: read through io_uring where the kernel has it; else, and where it has not, as many threads read.
        part_bytes: a record is read in parts of at most this size, so that several are under way for one expert.
        read_timeout_s: how long `close` waits for a read that does not return.
        ops: system calls; tests replace them.

    Raises:
        BundleError: an expert file is missing or its header lies.
        DeviceError: the system gives no thread to read with.
    """

    def __init__(
        self,
        bundle: Bundle,
        tier: int,
        *,
        io_threads: int = DEFAULT_IO_THREADS,
        direct_io: bool = True,
        use_uring: bool = True,
        part_bytes: int = DEFAULT_PART_BYTES,
        read_timeout_s: float = DEFAULT_READ_TIMEOUT_S,
        ops: FileOps | None = None,
    ) -> None:
        self._tier, self._read_timeout_s = tier, read_timeout_s
        layout = bundle.manifest.layout
        self._sizes = (layout.bf16_bytes,) if tier == BF16 else layout.segment_bytes[: tier // 2]
        self.record_bytes = layout.tier_bytes(tier)
        self._part_bytes = part_bytes
        self._layouts: dict[SegmentRange, tuple[int, ReadLayout]] = {}
        self._files = ExpertFiles(bundle, tier, direct_io=direct_io, ops=ops)
        self._numbers = itertools.count()
        self._reads: dict[int, _Read] = {}
        replaced = ops.preadv if ops is not None else FileOps().preadv
        is_direct = self._files.is_direct
        try:
            self._drive = DriveReader(io_threads, not is_direct, use_uring and is_direct, replaced)
        except RuntimeError as err:  # the system gives no thread
            self._files.close()
            raise DeviceError(str(err)) from err
        self._is_closed = self._is_told = False  # told: records are asked for past tickets

    @property
    def mode(self) -> str:
        """How the drive is read: 'direct', 'buffered', or buffered with the reason."""
        return self._files.mode

    @property
    def method(self) -> str:
        """What reads are made with: 'io_uring', or 'threads' with the reason."""
        return self._drive.method

    def begin_request(self) -> None:
        """See `ExpertStore.begin_request`."""
        try:
            self._files.check_paths()
        finally:  # files that came back are open under other numbers
            if self._is_told:
                self._tell_files()

    def native_reads(self) -> NativeReads:
        """See `ExpertStore.native_reads`."""
        for first, last in itertools.combinations(range(len(self._sizes) + 1), 2):
            self._drive.set_layout(first, last, self._layout(first, last)[0])
        self._tell_files()
        self._is_told = True
        return NativeReads(self._drive, self._error_of)

    def _tell_files(self) -> None:
        for layer_idx, file in self._files.opened():
            header = file.header
            self._drive.set_file(
                layer_idx, file.fd, header.file_bytes, header.record_offset(0), header.record_stride,
                np.ascontiguousarray(header.checksums, np.uint32), self._tier != BF16,
            )  # fmt: skip

    def submit(
        self,
        key: ExpertKey,
        into: Sequence[ByteRange],
        *,
        segments: SegmentRange | None = None,
        priority: Priority = Priority.NOW,
        tag: int = 0,
    ) -> ReadTicket:
        """See `ExpertStore.submit`. Each of `into` starts 4 KiB aligned."""
        layer_idx, expert_idx = key
        first, last = segments or (0, len(self._sizes))
        number, read_layout = self._layout(first, last)
        file = self._files.open_file(layer_idx)
        read = _Read(next(self._numbers), key, into, priority, tag, (first, last))
        self._reads[read.number] = read
        try:
            self._drive.submit(
                read.number, int(priority), number,
                file.fd, file.header.file_bytes, file.header.record_offset(expert_idx) + read_layout.start,
                [(place.address, place.nbytes) for place in into],
                file.header.checksums[expert_idx, first:last].tolist(),
                first == 0 and self._tier != BF16, layer_idx, expert_idx,
            )  # fmt: skip
        except ValueError:
            del self._reads[read.number]
            raise
        return read

    def completed(self, timeout_s: float) -> list[ReadTicket]:
        """See `ExpertStore.completed`."""
        while True:
            done = self._drive.wait(min(timeout_s, _SIGNALS_S))
            timeout_s -= _SIGNALS_S
            if done or timeout_s <= 0:
                break
        found: list[ReadTicket] = []
        for number, fault, elapsed_ns, detail in done:
            read = self._reads.get(number)
            if read is not None:
                if fault:
                    read.error = self._error_of(read.key, read.segments, fault, detail)
                read.finish(elapsed_ns)
                found.append(read)
                del self._reads[number]
            self._drive.forget(number)
        return found

    def cancel(self, ticket: ReadTicket) -> bool:
        """See `ExpertStore.cancel`."""
        assert isinstance(ticket, _Read)
        if ticket.is_done or not self._drive.cancel(ticket.number):
            return False
        ticket.error = ReadCancelled(f"{self._where(ticket.key)}: cancelled")
        ticket.finish(0)
        self._reads.pop(ticket.number, None)
        return True

    def outstanding(self) -> list[ReadTicket]:
        """See `ExpertStore.outstanding`."""
        return [*self._reads.values()]

    def promote(self, ticket: ReadTicket, priority: Priority) -> None:
        """See `ExpertStore.promote`."""
        assert isinstance(ticket, _Read)
        if priority < ticket.priority:
            ticket.priority = priority
            self._drive.promote(ticket.number, int(priority))

    def stats(self) -> StoreStats:
        """See `ExpertStore.stats`."""
        return StoreStats(*self._drive.stats())

    def close(self) -> None:
        """See `ExpertStore.close`."""
        if self._is_closed:
            return
        self._is_closed = True
        is_over = self._drive.close(self._read_timeout_s)
        self.completed(0.0)
        if is_over:
            self._files.close()
        else:  # the drive may still write there: this memory is never given back
            _NEVER_RETURNED.extend(self._reads.values())
            for place in [place for read in self._reads.values() for place in read.into]:
                if isinstance(place.owner, KeepsBytes):
                    place.owner.keep()

    def _error_of(self, key: ExpertKey, segments: SegmentRange, fault: int, detail: Detail) -> ExpertReadError:
        """Return what to raise for a read of segments of an expert that failed, by what the drive reader says."""
        if fault == Fault.CANCELLED:
            return ReadCancelled(f"{self._where(key)}: cancelled")
        kind = ExpertRecordError if fault == Fault.STAMP else ExpertReadError
        return kind(self._message(key, self._layout(*segments)[1], fault, detail))

    def _layout(self, first: int, last: int) -> tuple[int, ReadLayout]:
        found = self._layouts.get((first, last))
        if found is None:
            read_layout = ReadLayout.make(self._sizes[:last], self._part_bytes, first)
            found = self._layouts[first, last] = (
                self._drive.add_layout(read_layout.segments, read_layout.parts),
                read_layout,
            )
        return found

    def _message(self, key: ExpertKey, read_layout: ReadLayout, fault: int, detail: Detail) -> str:
        file = self._files.open_file(key.layer_idx)
        what = describe(fault, detail, read_layout, file.header.file_bytes)
        if fault in (Fault.CHECKSUM, Fault.STAMP, Fault.CLOSED, Fault.RAISED):
            return f"{self._where(key)}{', ' if fault == Fault.CHECKSUM else ': '}{what}"
        return f"{file.name}: {what}"

    def _where(self, key: ExpertKey) -> str:
        layer_idx, expert_idx = key
        return f"{self._files.name(layer_idx)}: layer {layer_idx}, expert {expert_idx}"
