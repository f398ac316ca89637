"""FirstTouch: takes memory from the system in a thread of its own, so that reads do not wait for pages."""

from __future__ import annotations

import threading
from collections.abc import Sequence

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
        ranges: memory; kept alive until this is over.
    """

    def __init__(self, ranges: Sequence[ByteRange]) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ranges,), name="first-touch", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when all of it is there, or the system refused some."""
        self._thread.join()

    def stop(self) -> None:
        """Leave the rest to whoever needs it, and return when nothing is touched any more."""
        self._stop.set()
        self._thread.join()

    def _run(self, ranges: Sequence[ByteRange]) -> None:
        for memory in ranges:
            for at in range(0, memory.nbytes, _STEP_BYTES):
                step = min(_STEP_BYTES, memory.nbytes - at)
                if self._stop.is_set() or not populate(memory.address + at, step):
                    return
