"""FileExpertStore: segments of records straight from the drive into arena slots, every segment checked on the way."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass

from edge_runtime.errors import ExpertReadError
from edge_runtime.experts.base import DEFAULT_READ_TIMEOUT_S, ExpertKey, Priority, ReadTicket, SegmentRange, StoreStats
from edge_runtime.experts.files import ExpertFiles, FileOps
from edge_runtime.experts.pool import ReaderPool
from edge_runtime.format.bundle import Bundle
from edge_runtime.format.record import BF16, PAGE, RECORD_MAGIC
from edge_runtime.sizes import MIB, align_up

DEFAULT_CHUNK_BYTES = MIB
DEFAULT_IO_THREADS = 4


@dataclass(frozen=True)
class ReadPlan:
    """How consecutive segments of a record are cut into reads; the same for every expert.

    Attributes:
        first: number of the first segment.
        start: its offset in the record.
        segments: (offset, bytes) of each segment, offsets from `start`.
        chunks: (offset, bytes) of each read; near-equal, 4 KiB aligned, together the whole prefix.
        touched: for each chunk, the segments it holds bytes of.
    """

    first: int
    start: int
    segments: tuple[tuple[int, int], ...]
    chunks: tuple[tuple[int, int], ...]
    touched: tuple[tuple[int, ...], ...]

    @staticmethod
    def make(record: tuple[int, ...], chunk_bytes: int, first: int = 0) -> ReadPlan:
        """Cut the segments from `first` on into chunks of at most `chunk_bytes` (4 KiB at least).

        Args:
            record: bytes of each segment of the record, up to the last one read.
            chunk_bytes: most bytes of one read.
            first: number of the first segment read.
        """
        segment_bytes = record[first:]
        starts = [sum(segment_bytes[:i]) for i in range(len(segment_bytes))]
        segments = tuple(zip(starts, segment_bytes, strict=True))
        total = sum(segment_bytes)
        count = -(-total // max(chunk_bytes, PAGE))
        step = align_up(-(-total // count), PAGE)
        chunks = tuple((at, min(step, total - at)) for at in range(0, total, step))
        touched = tuple(
            tuple(i for i, (at, size) in enumerate(segments) if at < start + length and start < at + size)
            for start, length in chunks
        )
        return ReadPlan(first, sum(record[:first]), segments, chunks, touched)


class _Read(ReadTicket):
    """A ticket with its progress: parts not started (guarded by the pool's lock) and not finished (by the store's).

    Whether it runs or is withdrawn is settled once, by whoever comes first to `settle_fate`.
    """

    def __init__(self, key: ExpertKey, into: memoryview, priority: Priority, tag: int, plan: ReadPlan) -> None:
        super().__init__(key, into, priority, tag)
        self.plan = plan
        self.waiting = set(range(len(plan.chunks)))
        self._fate: dict[str, str] = {}
        self.chunks_left = len(plan.chunks)
        self.segment_left = [sum(i in touched for touched in plan.touched) for i in range(len(plan.segments))]

    def settle_fate(self, fate: str) -> bool:
        """Let the read's fate be 'runs' or 'withdrawn', in one atomic step; whether it is that, now or since before."""
        return self._fate.setdefault("is", fate) == fate


class FileExpertStore:
    """Reads experts of a bundle with a few threads. Implements `ExpertStore`.

    Args:
        bundle: an open bundle.
        tier: the deepest tier read: 2, 4, 6, 8, or 16 for the bfloat16 files.
        io_threads: reads under way at once; with O_DIRECT this is the depth of the drive's queue.
        direct_io: read past the page cache; see `ExpertFiles`.
        chunk_bytes: a record is read in pieces of at most this size, so that several are under way for one expert.
        read_timeout_s: how long `close` waits for a read that does not return.
        ops: system calls; tests replace them.

    Raises:
        BundleError: an expert file is missing or its header lies.
    """

    def __init__(
        self,
        bundle: Bundle,
        tier: int,
        *,
        io_threads: int = DEFAULT_IO_THREADS,
        direct_io: bool = True,
        chunk_bytes: int = DEFAULT_CHUNK_BYTES,
        read_timeout_s: float = DEFAULT_READ_TIMEOUT_S,
        ops: FileOps | None = None,
    ) -> None:
        # imported here so that modules which only name this class do not load the native library
        from edge_runtime.kernels import crc32c

        self._crc32c = crc32c
        self._tier, self._read_timeout_s = tier, read_timeout_s
        layout = bundle.manifest.layout
        self._sizes = (layout.bf16_bytes,) if tier == BF16 else layout.segment_bytes[: tier // 2]
        self.record_bytes = layout.tier_bytes(tier)
        self._chunk_bytes = chunk_bytes
        self._plans: dict[SegmentRange, ReadPlan] = {}
        self._files = ExpertFiles(bundle, tier, direct_io=direct_io, ops=ops)
        self._lock = threading.Lock()
        self._reads = self._bytes_read = 0
        self._done: queue.SimpleQueue[ReadTicket] = queue.SimpleQueue()
        self._outstanding: set[_Read] = set()
        self._pool: ReaderPool[_Read] = ReaderPool(io_threads, self._work, self._claim_part)
        self._is_closed = False

    @property
    def mode(self) -> str:
        """How the drive is read: 'direct', 'buffered', or buffered with the reason."""
        return self._files.mode

    def begin_request(self) -> None:
        """See `ExpertStore.begin_request`."""
        self._files.check_paths()

    def submit(
        self,
        key: ExpertKey,
        into: memoryview,
        *,
        segments: SegmentRange | None = None,
        priority: Priority = Priority.NOW,
        tag: int = 0,
    ) -> ReadTicket:
        """See `ExpertStore.submit`. `into` holds at least the segments' bytes and starts 4 KiB aligned."""
        first, last = segments or (0, len(self._sizes))
        plan = self._plans.get((first, last))
        if plan is None:
            plan = self._plans[first, last] = ReadPlan.make(self._sizes[:last], self._chunk_bytes, first)
        if len(into) < (size := sum(self._sizes[first:last])):
            raise ValueError(f"store: expected a buffer of {size} bytes, got {len(into)}")
        read = _Read(key, into, priority, tag, plan)
        self._outstanding.add(read)
        self._pool.push(read, len(plan.chunks), priority)
        return read

    def completed(self, timeout_s: float) -> list[ReadTicket]:
        """See `ExpertStore.completed`."""
        found: list[ReadTicket] = []
        try:
            found.append(self._done.get(timeout=timeout_s) if timeout_s > 0 else self._done.get_nowait())
            while True:
                found.append(self._done.get_nowait())
        except queue.Empty:
            return found

    def cancel(self, ticket: ReadTicket) -> bool:
        """See `ExpertStore.cancel`."""
        assert isinstance(ticket, _Read)
        if not ticket.settle_fate("withdrawn"):
            if not ticket.is_done:  # should `submit` have been interrupted, the rest is queued now
                self._pool.push(ticket, len(ticket.plan.chunks), ticket.priority)
            return False
        ticket.error = ExpertReadError(f"{self._where(ticket)}: withdrawn")
        ticket.finish()
        self._outstanding.discard(ticket)
        return True

    def outstanding(self) -> list[ReadTicket]:
        """See `ExpertStore.outstanding`."""
        return [*self._outstanding.copy()]

    def promote(self, ticket: ReadTicket, priority: Priority) -> None:
        """See `ExpertStore.promote`."""
        assert isinstance(ticket, _Read)
        if priority < ticket.priority:
            ticket.priority = priority
            # queued a second time, further ahead; parts that were started by then are skipped
            self._pool.push(ticket, len(ticket.plan.chunks), priority)

    def stats(self) -> StoreStats:
        """See `ExpertStore.stats`."""
        return StoreStats(self._reads, self._bytes_read, self._pool.busy_ns)

    def close(self) -> None:
        """See `ExpertStore.close`."""
        self._is_closed = True
        if self._pool.close(self._read_timeout_s):
            self._files.close()

    @staticmethod
    def _claim_part(read: _Read, part: int) -> bool:
        if part not in read.waiting or not read.settle_fate("runs"):
            return False
        read.waiting.remove(part)
        return True

    def _work(self, read: _Read, part: int) -> None:
        """Read one chunk, check the segments it completes, and finish the ticket with its last chunk."""
        error: ExpertReadError | None = None
        try:
            if self._is_closed:
                raise ExpertReadError(f"{self._where(read)}: the store was closed")
            if read.error is None:
                self._read_chunk(read, part)
        except ExpertReadError as err:
            error = err
        except Exception as err:  # noqa: BLE001 - a bug here must fail the read, not leave the engine waiting for it
            error = ExpertReadError(f"{self._where(read)}: {type(err).__name__}: {err}")
            error.__cause__ = err
        with self._lock:
            read.error = read.error or error
            read.chunks_left -= 1
            is_last = read.chunks_left == 0
            self._reads += is_last and read.error is None
        if is_last:
            read.finish()
            self._outstanding.discard(read)
            self._done.put(read)

    def _read_chunk(self, read: _Read, part: int) -> None:
        layer_idx, expert_idx = read.key
        if part == 0:
            self._files.check_open(layer_idx)
        start, size = read.plan.chunks[part]
        base = self._files.header(layer_idx).record_offset(expert_idx) + read.plan.start
        with read.into[start : start + size] as target:
            self._files.read(layer_idx, base + start, target)
        complete = []
        with self._lock:
            self._bytes_read += size
            for segment in read.plan.touched[part]:
                read.segment_left[segment] -= 1
                if read.segment_left[segment] == 0:
                    complete.append(segment)
        for segment in complete:
            self._check_segment(read, segment)

    def _check_segment(self, read: _Read, index: int) -> None:
        layer_idx, expert_idx = read.key
        at, size = read.plan.segments[index]
        segment = read.plan.first + index
        expected = int(self._files.header(layer_idx).checksums[expert_idx, segment])
        with read.into[at : at + size] as data:
            got = self._crc32c(data)
            start = bytes(data[:12])
        if got != expected:
            raise ExpertReadError(
                f"{self._where(read)}, segment {segment}: expected checksum {expected:08x}, got {got:08x} (damaged). "
                "Run hobbit verify; export the bundle again."
            )
        if segment == 0 and self._tier != BF16:
            said = (start[:4], int.from_bytes(start[4:8], "little"), int.from_bytes(start[8:12], "little"))
            if said != (RECORD_MAGIC, layer_idx, expert_idx):
                raise ExpertReadError(
                    f"{self._where(read)}: expected the record of this expert, got {said[0]!r}, layer {said[1]}, "
                    f"expert {said[2]}. Export the bundle again."
                )

    def _where(self, ticket: ReadTicket) -> str:
        layer_idx, expert_idx = ticket.key
        return f"{self._files.name(layer_idx)}: layer {layer_idx}, expert {expert_idx}"
