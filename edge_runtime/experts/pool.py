"""Reader threads fed from one priority queue, and the time the drive was kept busy."""

from __future__ import annotations

import heapq
import itertools
import logging
import queue
import threading
from collections.abc import Callable
from time import perf_counter_ns
from typing import Generic, TypeVar

_log = logging.getLogger(__name__)

Item = TypeVar("Item")


class ReaderPool(Generic[Item]):
    """Threads that take (item, part) pairs in order of priority, then of arrival.

    Only the threads take the lock. Whoever pushes takes none, so being interrupted there leaves none held; at worst the
    later parts of an item are missing, and pushing it again brings them.

    Args:
        num_threads: reads under way at once.
        work: called in a thread as work(item, part); must not raise.
        is_wanted: called under the threads' lock just before a part starts; False skips it. Decides races between a
            repeated `push` and the threads.
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
        self._pushed: queue.SimpleQueue[tuple[int, int, Item, int]] = queue.SimpleQueue()
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._heap: list[tuple[int, int, Item, int]] = []
        self._arrivals = itertools.count()
        self._active = 0
        self._busy = (0, 0)  # until the latest start from idle, and that start's time, 0 while idle
        self._closing = False
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._loop, name=f"{name}-{i}", daemon=True) for i in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def busy_ns(self) -> int:
        """Wall time during which at least one part was worked on."""
        before, since = self._busy
        return before + (perf_counter_ns() - since if since else 0)

    def push(self, item: Item, num_parts: int, priority: int) -> None:
        """Queue parts 0 to num_parts - 1 of an item."""
        for part in range(num_parts):
            self._pushed.put((int(priority), next(self._arrivals), item, part))
        for _ in range(min(num_parts, len(self._threads))):
            self._wakes.put(None)

    def close(self, timeout_s: float) -> bool:
        """Let the threads work off the queue and join them; False if one is stuck in a read after `timeout_s`."""
        self._closing = True
        for _ in self._threads:
            self._wakes.put(None)
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
        while True:
            with self._lock:
                found = self._next()
                if found is not None or self._closing:
                    return found
            self._wakes.get()  # what is pushed from here on is followed by a wake; a superfluous one does no harm

    def _next(self) -> tuple[Item, int] | None:
        while not self._pushed.empty():
            heapq.heappush(self._heap, self._pushed.get_nowait())
        while self._heap:
            _, _, item, part = heapq.heappop(self._heap)
            if self._is_wanted(item, part):
                if self._active == 0:
                    self._busy = (self._busy[0], perf_counter_ns())
                self._active += 1
                return item, part
        return None

    def _done(self) -> None:
        with self._lock:
            self._active -= 1
            if self._active == 0:
                before, since = self._busy
                self._busy = (before + perf_counter_ns() - since, 0)
