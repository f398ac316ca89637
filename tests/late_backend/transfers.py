"""Staging buffers: reads land in host memory, a queue of the device copies from there into slots."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from edge_runtime.backends.memory import ByteRange, Landing
from edge_runtime.base.sizes import align_up
from late_backend.device import COPY, Device, LateEvent
from late_backend.hazards import HostFault

if TYPE_CHECKING:
    from late_backend.memory import DeviceMemory

_REUSED = 0xA5


class Staging:
    """A staging buffer of the host, page-aligned."""

    def __init__(self, nbytes: int) -> None:
        self.bytes = mmap.mmap(-1, align_up(nbytes, mmap.PAGESIZE))
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.bytes))

    def poison(self) -> None:
        """Whoever still reads from here reads this."""
        ctypes.memset(self.address, _REUSED, len(self.bytes))


class StagedLanding:
    """A staging buffer, cut for the parts of slots one read is for. Implements `Landing`."""

    def __init__(self, staging: Staging, slots: Sequence[ByteRange]) -> None:
        self.staging, self.slots = staging, [*slots]
        self.copies = 0
        """Transfers from here that have not run."""
        self.targets: list[ByteRange] = []
        start = 0
        for slot in slots:
            self.targets.append(ByteRange(staging.address + start, slot.nbytes, staging.bytes))
            start += align_up(slot.nbytes, mmap.PAGESIZE)
        assert start <= len(staging.bytes), "a read is larger than the largest"

    @property
    def is_busy(self) -> bool:
        """Whether a transfer from here has not run."""
        return self.copies > 0


class LateTransfers:
    """As many staging buffers as reads may be under way. Implements `Transfers`."""

    lands_in_place = False

    def __init__(self, device: Device, memory: DeviceMemory, record_bytes: int, reads: int) -> None:
        self._device, self._memory = device, memory
        self._buffers = [Staging(record_bytes) for _ in range(reads)]
        self._used: list[StagedLanding] = []
        self.least_room = reads

    @property
    def room(self) -> int:
        """See `Transfers.room`: buffers left."""
        return len(self._buffers) - len(self._used)

    def land(self, slots: Sequence[ByteRange]) -> StagedLanding:
        """See `Transfers.land`."""
        used = {id(landing.staging) for landing in self._used}
        landing = StagedLanding(next(each for each in self._buffers if id(each) not in used), slots)
        self._used.append(landing)
        self.least_room = min(self.least_room, self.room)
        return landing

    def start(self, landing: Landing) -> LateEvent:
        """See `Transfers.start`."""
        pairs = list(zip(landing.targets, landing.slots, strict=True))

        def run() -> None:
            for source, slot in pairs:
                ctypes.memmove(self._memory.real(slot.address, slot.nbytes), source.address, slot.nbytes)

        def over() -> None:
            self._memory.hazards.end_transfer(landing.slots)
            landing.copies -= 1

        self._memory.hazards.begin_transfer(landing.slots)
        landing.copies += 1
        try:
            self._device.push(COPY, "transfer", run, over)
        except BaseException:
            over()
            raise
        return self._device.record(COPY)

    def release(self, landing: Landing) -> None:
        """See `Transfers.release`."""
        if landing in self._used:
            if landing.is_busy:
                raise HostFault("a staging buffer was given back before its transfer was over")
            landing.staging.poison()
            self._used.remove(landing)

    def keep(self, live: Collection[Landing]) -> None:
        """See `Transfers.keep`."""
        for landing in [each for each in self._used if each not in live]:
            self.release(landing)
