"""What queued work still reads and writes, so that a host that gets in its way is told at once, not by its numbers."""

from __future__ import annotations

import threading
from collections import Counter

from edge_runtime.backends.memory import ByteRange
from edge_runtime.base.arrays import U64


class HostFault(AssertionError):
    """The host did something before the work was over that it should have waited for."""


class Hazards:
    """Bytes of slots that work given to the device uses until it has run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read = Counter[int]()
        self._written = Counter[ByteRange]()

    def begin_kernels(self, segments: U64) -> None:
        """Kernels are queued that read these segments."""
        found = segments[segments != 0].tolist()
        with self._lock:
            if any(_is_inside(address, place) for place in self._written for address in found):
                raise HostFault("kernels were given a slot before its transfer was over")
            self._read.update(found)

    def end_kernels(self, segments: U64) -> None:
        """They have run."""
        with self._lock:
            self._read -= Counter(segments[segments != 0].tolist())

    def begin_transfer(self, slots: list[ByteRange]) -> None:
        """A transfer is queued that writes these parts of slots."""
        with self._lock:
            if any(_is_inside(address, slot) for slot in slots for address in self._read):
                raise HostFault("a transfer was started into a slot that queued kernels still read")
            self._written.update(slots)

    def end_transfer(self, slots: list[ByteRange]) -> None:
        """It has run."""
        with self._lock:
            self._written -= Counter(slots)

    def free(self, block: ByteRange) -> None:
        """Memory is given back."""
        with self._lock:
            if any(
                _is_inside(address, block) for address in [*self._read, *(place.address for place in self._written)]
            ):
                raise HostFault("memory was given back that queued work still uses")


def _is_inside(address: int, place: ByteRange) -> bool:
    return place.address <= address < place.address + place.nbytes
