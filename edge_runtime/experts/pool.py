"""Reader threads fed from one priority queue, and the time the drive was kept busy."""

from __future__ import annotations

import heapq
import logging
import threading
from collections.abc import Callable
from time import perf_counter_ns
from typing import Generic, TypeVar

_log = logging.getLogger(__name__)

Item = TypeVar("Item")


class ReaderPool(Generic[Item]):
    """Threads that take (item, part) pairs in order of priority, then of arrival.

    Args:
        num_threads: reads under way at once.
        work: called in a thread as work(item, part); must not raise.
        is_wanted: called under the queue's lock just before a part starts; False skips it. Decides races between
            `withdraw`, a repeated `push` and the threads.
        name: prefix of the threads' names.
    """

    def __init__(
        self,
        num_threads: int,
        work: Callable[[Item, int], None],
        is_wanted: Callable[[Item, int], bool],
        name: str = "expert-reader",
    ) -> None:
        self._work, self._is_wanted = work, is_wanted
        self._heap: list[tuple[int, int, Item, int]] = []
        self._arrivals = 0
        self._active = 0
        self._busy_ns = 0
        self._busy_since = 0
        self._closing = False
        self._wake = threading.Condition()
        self._threads = [
            threading.Thread(target=self._loop, name=f"{name}-{i}", daemon=True) for i in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def busy_ns(self) -> int:
        """Wall time during which at least one part was worked on."""
        with self._wake:
            return self._busy_ns + (perf_counter_ns() - self._busy_since if self._active else 0)

    def push(self, item: Item, num_parts: int, priority: int) -> None:
        """Queue parts 0 to num_parts - 1 of an item."""
        with self._wake:
            for part in range(num_parts):
                heapq.heappush(self._heap, (priority, self._arrivals, item, part))
                self._arrivals += 1
            self._wake.notify(num_parts)

    def locked(self, action: Callable[[], bool]) -> bool:
        """Run a quick action while no part can start."""
        with self._wake:
            return action()

    def close(self, timeout_s: float) -> bool:
        """Let the threads work off the queue and join them; False if one is stuck in a read after `timeout_s`."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join(timeout_s)
        stuck = [thread.name for thread in self._threads if thread.is_alive()]
        if stuck:
            _log.warning(
                "%s: still inside a read after %g s; left behind. Check the drive.", ", ".join(stuck), timeout_s
            )
        return not stuck

    def _loop(self) -> None:
        while (taken := self._take()) is not None:
            try:
                self._work(*taken)
            finally:
                del taken  # the item holds a buffer of the arena
                self._done()

    def _take(self) -> tuple[Item, int] | None:
        with self._wake:
            while True:
                while self._heap:
                    _, _, item, part = heapq.heappop(self._heap)
                    if self._is_wanted(item, part):
                        if self._active == 0:
                            self._busy_since = perf_counter_ns()
                        self._active += 1
                        return item, part
                if self._closing:
                    return None
                self._wake.wait()

    def _done(self) -> None:
        with self._wake:
            self._active -= 1
            if self._active == 0:
                self._busy_ns += perf_counter_ns() - self._busy_since
