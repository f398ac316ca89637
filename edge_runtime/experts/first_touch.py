"""FirstTouch: takes memory from the system in a thread of its own, so that reads do not wait for pages."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator, Sequence

from edge_runtime.backends.memory import ByteRange
from edge_runtime.base.huge_pages import populate
from edge_runtime.base.sizes import MIB

_STEP_BYTES = 8 * MIB
"""Taken at once: others who change the process's memory wait as long as that takes, 3 to 10 ms."""


class FirstTouch:
    """Goes through memory once, in order, from now on. What is there already is passed over, nothing is changed.

    The system zeroes a page before it gives it away. Where a direct read is the first to need one, the thread that
    keeps the drive busy does that, page after page, and the drive stands idle: a first prompt took four times as long.

    Args:
        ranges: memory, in the order it will be used; kept alive until this is over.
        ahead: bytes it may be ahead of what is used; None: any number.
    """

    def __init__(self, ranges: Sequence[ByteRange], ahead: int | None = None) -> None:
        self._ahead, self._total = ahead, sum(one.nbytes for one in ranges)
        self._passed = self._reached = 0.0
        self._stops, self._changed = False, threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ranges,), name="first-touch", daemon=True)
        self._thread.start()

    def use(self, passed: float, reached: float) -> None:
        """Reads have come so far, as shares of the memory: before `passed` they left nothing to take."""
        self._passed, self._reached = self._total * passed, self._total * reached
        self._changed.set()

    def go_on(self) -> None:
        """Go through all of it, however little is used."""
        self._ahead = None
        self._changed.set()

    def wait(self, timeout_s: float | None) -> None:
        """Return when all of it is there, or the system refused some, or after so long; None: however long it takes."""
        self._thread.join(timeout_s)

    def stop(self) -> None:
        """Leave the rest to whoever needs it, and return when nothing is touched any more."""
        self._stops = True
        self._changed.set()
        self._thread.join()

    def _run(self, ranges: Sequence[ByteRange]) -> None:
        done = 0
        for address, nbytes in _steps(ranges):
            done += nbytes
            if not self._may_take(done) or not (done <= self._passed or populate(address, nbytes)):
                return

    def _may_take(self, total: int) -> bool:
        """Wait until so many bytes may be taken altogether; False if it is to stop."""
        while True:
            self._changed.clear()
            ahead = self._ahead
            if self._stops or ahead is None or total <= self._reached + ahead:
                return not self._stops
            self._changed.wait()


def _steps(ranges: Sequence[ByteRange]) -> Iterator[tuple[int, int]]:
    """Cut memory into steps (address, bytes) of whole pages: at its ends they may be its neighbours' too."""
    for memory in ranges:
        start = memory.address // mmap.PAGESIZE * mmap.PAGESIZE
        end = memory.address + memory.nbytes
        for at in range(start, end, _STEP_BYTES):
            yield at, min(_STEP_BYTES, end - at)
