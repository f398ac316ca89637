"""The host's own memory as an address space: reads land in the slots, nothing is transferred, nothing runs late."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from edge_runtime.backends.cpu.slots import HostSlots
from edge_runtime.backends.memory import ByteRange, Landing


class InPlace:
    """A landing in the slots themselves. Implements `Landing`."""

    __slots__ = ("targets",)

    def __init__(self, targets: Sequence[ByteRange]) -> None:
        self.targets = targets


class NoTransfers:
    """What has landed is ready. Implements `Transfers`."""

    room = None
    lands_in_place = True

    def land(self, slots: Sequence[ByteRange]) -> Landing:
        """See `Transfers.land`: in the slots."""
        return InPlace(slots)

    def start(self, landing: Landing) -> None:
        """See `Transfers.start`: nothing to do."""

    def release(self, landing: Landing) -> None:
        """See `Transfers.release`: nothing was reserved."""

    def keep(self, live: Collection[Landing]) -> None:
        """See `Transfers.keep`: nothing was reserved."""


class HostSpace:
    """Memory of the process. Implements `MemorySpace`."""

    gives_back_pages = True
    runs_late = False

    def __init__(self) -> None:
        self.transfers = NoTransfers()

    def make_slots(
        self, *, slot_bytes: int, num_slots: int, segment_offsets: Sequence[int], block_bytes: int
    ) -> HostSlots:
        """See `MemorySpace.make_slots`."""
        return HostSlots(
            slot_bytes=slot_bytes, num_slots=num_slots, segment_offsets=segment_offsets, block_bytes=block_bytes
        )

    def fence(self) -> None:
        """See `MemorySpace.fence`: kernels return when they are done."""
