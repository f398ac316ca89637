"""What an expert store is: reads segments of records into given memory. The cache knows nothing else of the drive."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from edge_runtime.backends.memory import ByteRange
from edge_runtime.base.errors import ExpertReadError
from edge_runtime.experts.store.read_layout import Detail

DEFAULT_READ_TIMEOUT_S = 30.0


class ExpertKey(NamedTuple):
    """One expert of the model."""

    layer_idx: int
    expert_idx: int


class ReadCancelled(ExpertReadError):
    """A read nobody wanted any more was not finished."""


SegmentRange = tuple[int, int]
"""Segments first, first + 1, ... last - 1 of a record: (first, last)."""


class Priority(enum.IntEnum):
    """Which reads go first; lower is sooner."""

    NOW = 0
    NEXT = 1
    SPECULATIVE = 2


@dataclass(frozen=True)
class StoreStats:
    """What a store has done since it was opened.

    Attributes:
        reads: records read and checked.
        bytes_read: bytes that came from the drive, failed and cancelled reads included. Both count a read once it was
            handed out by `completed` or cancelled: they depend on what was asked for, not on how far the drive is.
        busy_ns: wall time during which at least one read was under way.
    """

    reads: int = 0
    bytes_read: int = 0
    busy_ns: int = 0


class ReadTicket:
    """One read under way.

    Attributes:
        key: the expert.
        into: memory its segments go to; kept alive until the read is done.
        priority: of the read.
        tag: the caller's own; the cache keeps its slot there.
        error: why it failed, once it is done.
        is_done: whether it finished, well or not; its memory is then no longer written to.
        elapsed_ns: time from asking to finished, queueing included; only once it is done.
    """

    def __init__(self, key: ExpertKey, into: Sequence[ByteRange], priority: Priority, tag: int) -> None:
        self.key, self.into, self.priority, self.tag = key, into, priority, tag
        self.error: ExpertReadError | None = None
        self.is_done = False
        self.elapsed_ns = 0

    def finish(self, elapsed_ns: int) -> None:
        """Mark it finished; called by the store, a second time only if the first was interrupted."""
        self.elapsed_ns = elapsed_ns
        self.into = ()
        self.is_done = True


class NativeReads(NamedTuple):
    """What native code reads experts with, past the tickets of a store.

    Attributes:
        drive: told where every record is; a `DriveReader`.
        error_of: returns what to raise for a read of segments of an expert that failed, by what the drive says.
    """

    drive: object
    error_of: Callable[[ExpertKey, SegmentRange, int, Detail], ExpertReadError]


class ExpertStore(Protocol):
    """Reads segments of any expert, up to those of one tier. One consumer thread at a time."""

    @property
    def mode(self) -> str:
        """How the drive is read, for reports: 'direct', 'buffered', or why it is not direct."""
        ...

    @property
    def method(self) -> str:
        """What reads are made with, for reports: 'io_uring', or 'threads' with the reason."""
        ...

    def begin_request(self) -> None:
        """Check that the files are still those that were opened; reopen what came back. No read may be under way.

        Raises:
            ExpertReadError: names the file that is missing or changed.
        """
        ...

    def native_reads(self) -> NativeReads | None:
        """Return what native code reads with from now on; None: reads have to pass through here.

        If it is used nobody submits, or asks for what is completed. A store before another one that wants to see its
        reads returns None.
        """
        ...

    def submit(
        self,
        key: ExpertKey,
        into: Sequence[ByteRange],
        *,
        segments: SegmentRange | None = None,
        priority: Priority = Priority.NOW,
        tag: int = 0,
    ) -> ReadTicket:
        """Start reading segments of an expert, by default all of the tier; returns at once.

        The segments go one after the other into the memory `into`, which the ticket keeps alive until it is done.
        """
        ...

    def completed(self, timeout_s: float) -> list[ReadTicket]:
        """Return tickets that finished and were not returned before, waiting for at least one; [] after the time."""
        ...

    def cancel(self, ticket: ReadTicket) -> bool:
        """Read no further for a ticket.

        True: nothing of it is under way; the ticket is done and never `completed`. False: some of it is, or all; it
        will be `completed` after that, with the error `ReadCancelled` unless that was its last part.
        """
        ...

    def outstanding(self) -> list[ReadTicket]:
        """Return every read whose ticket is not done, also of an interrupted `submit`. What is not here is over.

        It is what a caller goes by that lost count because of an exception; such reads may be cancelled or awaited.
        """
        ...

    def promote(self, ticket: ReadTicket, priority: Priority) -> None:
        """Move a queued read forward."""
        ...

    def stats(self) -> StoreStats:
        """Totals since opening."""
        ...

    def close(self) -> None:
        """Cancel what is queued, wait for what is not, release files and threads. Safe to call twice."""
        ...
