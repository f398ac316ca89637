"""Heap trim: after a burst of requests, memory the allocator kept of them goes back to the system."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from edge_runtime.telemetry.process import trim_heap

_AFTER_S = 1.0


class HeapTrim:
    """Returns freed memory once in every pause. For the serving loop's thread.

    Args:
        release: returns freed memory; takes some milliseconds.
        clock: in seconds.
    """

    def __init__(self, release: Callable[[], None] = trim_heap, clock: Callable[[], float] = monotonic) -> None:
        self._release, self._clock = release, clock
        self._last_work: float | None = None

    def worked(self) -> None:
        """Note that something ran."""
        self._last_work = self._clock()

    def idle(self) -> None:
        """Note that nothing runs and nothing waits; trims the heap once the pause is long enough."""
        if self._last_work is not None and self._clock() - self._last_work > _AFTER_S:
            self._last_work = None
            self._release()
