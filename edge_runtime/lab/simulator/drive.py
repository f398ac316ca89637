"""A drive that exists on paper: reads finish at once, their bytes and the time they would have taken are added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_runtime.backends.memory import ByteRange
from edge_runtime.experts.store.base import ExpertKey, Priority, ReadTicket, SegmentRange, StoreStats


@dataclass(frozen=True)
class DriveModel:
    """What reading costs. Reads submitted together overlap: they pay the latency once and share the bandwidth.

    Attributes:
        gbps: sustained bandwidth in GB/s (10^9 bytes).
        latency_us: from submitting a batch of reads to its first byte.
    """

    gbps: float = 3.0
    latency_us: float = 100.0

    def seconds(self, batch_bytes: int) -> float:
        """Time a batch of reads keeps the engine waiting."""
        return self.latency_us * 1e-6 + batch_bytes / (self.gbps * 1e9) if batch_bytes else 0.0


class SimulatedStore:
    """Implements `ExpertStore` without a file: nothing is written into the buffers.

    Args:
        model: what the reads of one wait cost.
    """

    mode = method = "simulated"

    def __init__(self, model: DriveModel) -> None:
        self._model = model
        self._done: list[ReadTicket] = []
        self._batch_bytes = self._behind_bytes = 0
        self._reads = self._bytes_read = 0
        self.seconds = 0.0

    def begin_request(self) -> None:
        """There are no files that could change."""

    def native_reads(self) -> None:
        """See `ExpertStore.native_reads`: reads are simulated."""

    def submit(
        self,
        key: ExpertKey,
        into: Sequence[ByteRange],
        *,
        segments: SegmentRange | None = None,
        priority: Priority = Priority.NOW,
        tag: int = 0,
    ) -> ReadTicket:
        """See `ExpertStore.submit`."""
        ticket = ReadTicket(key, into, priority, tag)
        size = sum(span.nbytes for span in into)
        if priority is Priority.SPECULATIVE:
            self._behind_bytes += size
        else:
            self._batch_bytes += size
        ticket.finish(0)
        self._done.append(ticket)
        return ticket

    def completed(self, timeout_s: float) -> list[ReadTicket]:
        """See `ExpertStore.completed`: everything submitted since the last call, as one batch.

        Nobody waits for what is read in the background: its bytes count, its time does not.
        """
        done, self._done = self._done, []
        self.read_at_once(len(done), self._batch_bytes)
        self._bytes_read += self._behind_bytes
        self._batch_bytes = self._behind_bytes = 0
        return done

    def read_at_once(self, reads: int, size: int) -> None:
        """Count a batch of reads that nobody holds a ticket of: `size` bytes in all."""
        self._reads += reads
        self._bytes_read += size
        self.seconds += self._model.seconds(size)

    def cancel(self, ticket: ReadTicket) -> bool:
        """Everything has already finished."""
        return False

    def outstanding(self) -> list[ReadTicket]:
        """See `ExpertStore.outstanding`: nothing."""
        return []

    def promote(self, ticket: ReadTicket, priority: Priority) -> None:
        """Everything has already finished."""

    def stats(self) -> StoreStats:
        """See `ExpertStore.stats`."""
        return StoreStats(self._reads, self._bytes_read, int(self.seconds * 1e9))

    def close(self) -> None:
        """Nothing to release."""
