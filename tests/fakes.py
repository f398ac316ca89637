"""Stand-ins for the outside world: a drive that follows a script."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from byte_ranges import view_of

from edge_runtime.backends.memory import ByteRange
from edge_runtime.base.errors import ExpertReadError
from edge_runtime.experts.store.base import ExpertKey, Priority, ReadCancelled, ReadTicket, SegmentRange, StoreStats


def record_of(key: ExpertKey, size: int, first_segment: int = 0) -> bytes:
    """The bytes FakeStore serves for an expert, read from a segment on."""
    return bytes([key.layer_idx % 251 + 4 * first_segment, key.expert_idx % 251]) * (size // 2)


class FakeStore:
    """An `ExpertStore` without files or threads: reads finish on a virtual clock, in the order of their latency.

    Args:
        record_bytes: most bytes a read writes.
        latency: virtual ticks a read takes; reads run side by side.
        fails: whether a read fails.
        stuck: whether a read never finishes.
    """

    def __init__(
        self,
        record_bytes: int,
        *,
        latency: Callable[[ExpertKey], int] = lambda key: 1,
        fails: Callable[[ExpertKey], bool] = lambda key: False,
        stuck: Callable[[ExpertKey], bool] = lambda key: False,
    ) -> None:
        self.mode = "fake"
        self.method = "fake"
        self.latency, self.fails, self.stuck = latency, fails, stuck
        self.record_bytes = record_bytes
        self.now = 0
        self.queue: list[tuple[int, int, ReadTicket]] = []
        self.submitted: list[tuple[ExpertKey, Priority]] = []
        self.reads = self.bytes_read = 0
        self.segments: dict[ReadTicket, SegmentRange] = {}
        self.requests = 0
        self.is_closed = False
        self.cuts = False
        self.cancelled: set[ReadTicket] = set()

    def begin_request(self) -> None:
        self.requests += 1

    def native_reads(self) -> None:
        """Every read is seen here."""

    def submit(
        self,
        key: ExpertKey,
        into: Sequence[ByteRange],
        *,
        segments: SegmentRange | None = None,
        priority: Priority = Priority.NOW,
        tag: int = 0,
    ) -> ReadTicket:
        ticket = ReadTicket(key, into, priority, tag)
        self.segments[ticket] = segments or (0, 1)
        self.queue.append((self.now + self.latency(key), len(self.submitted), ticket))
        self.submitted.append((key, priority))
        return ticket

    def completed(self, timeout_s: float) -> list[ReadTicket]:
        self.queue.sort(key=lambda entry: entry[:2])
        ready = [entry for entry in self.queue if not self.stuck(entry[2].key)]
        if not ready or (timeout_s == 0 and ready[0][0] > self.now):
            return []
        self.now = max(self.now, ready[0][0])
        due = [entry for entry in ready if entry[0] <= self.now]
        for entry in due:
            self.queue.remove(entry)
            self._finish(entry[2])
        return [ticket for _, _, ticket in due]

    def cancel(self, ticket: ReadTicket) -> bool:
        """Reads due later than the next tick count as not started; of others `cuts` says if a part is left to drop."""
        if self.cuts:
            self.cancelled.add(ticket)
            return False
        for entry in self.queue:
            if entry[2] is ticket and entry[0] > self.now + 1 and not self.stuck(ticket.key):
                self.queue.remove(entry)
                ticket.error = ReadCancelled("cancelled")
                ticket.finish(0)
                return True
        return False

    def outstanding(self) -> list[ReadTicket]:
        return [ticket for _, _, ticket in self.queue]

    def promote(self, ticket: ReadTicket, priority: Priority) -> None:
        self.submitted.append((ticket.key, priority))

    def stats(self) -> StoreStats:
        return StoreStats(self.reads, self.bytes_read, self.now)

    def close(self) -> None:
        self.is_closed = True

    def _finish(self, ticket: ReadTicket) -> None:
        if ticket in self.cancelled:
            ticket.error = ReadCancelled("cancelled")
        elif self.fails(ticket.key):
            ticket.error = ExpertReadError(
                f"layer {ticket.key.layer_idx}, expert {ticket.key.expert_idx}: scripted failure"
            )
        else:
            first, last = self.segments.pop(ticket)
            numbers = [first, *range(last - len(ticket.into) + 1, last)]  # of the first segment in each piece
            for place, number in zip(ticket.into, numbers, strict=True):
                size = min(place.nbytes, self.record_bytes)
                view_of(place)[:size] = record_of(ticket.key, size, number)
                self.bytes_read += size
            self.reads += 1
        ticket.finish(self.now)
