"""Staging buffers: a read lands in memory of the host, and a stream of its own copies from there into slots."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from edge_runtime.backends.cpu.space import InPlace
from edge_runtime.backends.cuda.blocks import Block, Staging, make_block
from edge_runtime.backends.cuda.driver import Stream
from edge_runtime.backends.cuda.events import Events, Recorded
from edge_runtime.backends.cuda.slots import on_host
from edge_runtime.backends.memory import ByteRange, Landing
from edge_runtime.base.sizes import align_up
from edge_runtime.bundle.record import PAGE


class InSlots:
    """Reads land in the slots, which kernels read in place. Implements `Transfers`."""

    room = None
    lands_in_place = False  # the host calls the slots by other addresses

    def land(self, slots: Sequence[ByteRange]) -> InPlace:
        """See `Transfers.land`: the slots, as the host calls them."""
        return InPlace([on_host(slot) for slot in slots])

    def start(self, landing: Landing) -> None:
        """See `Transfers.start`: nothing to do."""

    def release(self, landing: Landing) -> None:
        """See `Transfers.release`: nothing was reserved."""

    def keep(self, live: Collection[Landing]) -> None:
        """See `Transfers.keep`: nothing was reserved."""

    def close(self) -> None:
        """Nothing is held."""


class StagedLanding:
    """A staging buffer, cut for the parts of slots one read is for. Implements `Landing`."""

    def __init__(self, staging: Block, slots: Sequence[ByteRange]) -> None:
        assert staging.host is not None
        self.staging, self.slots = staging, [*slots]
        self.targets: list[ByteRange] = []
        at = 0
        for slot in slots:
            self.targets.append(ByteRange(staging.host + at, slot.nbytes, staging))
            at += align_up(slot.nbytes, PAGE)
        assert at <= staging.nbytes, "a read is larger than the largest"


class Staged:
    """As many staging buffers as reads may be under way. Implements `Transfers`.

    Args:
        stream: copies; nothing else runs on it.
        kind: of the buffers.
        record_bytes: of the largest read.
        reads: under way at once.
    """

    lands_in_place = False

    def __init__(self, stream: Stream, kind: Staging, record_bytes: int, reads: int) -> None:
        self._stream, self._events = stream, Events(stream.device)
        self._free: list[Block] = []
        self._used: list[StagedLanding] = []
        try:
            for _ in range(reads):
                self._free.append(make_block(stream.device, kind, align_up(record_bytes, PAGE)))
        except BaseException:
            self.close()
            raise

    @property
    def room(self) -> int:
        """See `Transfers.room`: buffers left."""
        return len(self._free)

    def land(self, slots: Sequence[ByteRange]) -> StagedLanding:
        """See `Transfers.land`."""
        landing = StagedLanding(self._free[-1], slots)
        self._used.append(landing)
        self._free.pop()
        return landing

    def start(self, landing: Landing) -> Recorded:
        """See `Transfers.start`: an event behind the copies; those of an earlier call are before it."""
        assert isinstance(landing, StagedLanding)
        for source, slot in zip(landing.targets, landing.slots, strict=True):
            self._stream.device.call(
                "cuMemcpyHtoDAsync_v2", slot.address, source.address, slot.nbytes, self._stream.handle
            )
        return self._events.record(self._stream)

    def release(self, landing: Landing) -> None:
        """See `Transfers.release`."""
        if landing in self._used:
            assert isinstance(landing, StagedLanding)
            self._used.remove(landing)
            if landing.staging not in self._free:  # an interrupt in `land` may have left it in both
                self._free.append(landing.staging)

    def keep(self, live: Collection[Landing]) -> None:
        """See `Transfers.keep`."""
        for landing in [each for each in self._used if each not in live]:
            self.release(landing)

    def close(self) -> None:
        """Give the buffers back. Safe to call twice."""
        for block in [*self._free, *(landing.staging for landing in self._used)]:
            block.close()
        self._free.clear()
        self._used.clear()
        self._events.close()
