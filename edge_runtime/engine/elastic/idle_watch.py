"""IdleWatch: an engine that nobody asks for anything still gives back what others need, and reads what it will."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edge_runtime.base.errors import RequestError

_EVERY_S, _BUSY_S = 0.5, 0.005
_END_S = 0.2
_SELDOM = 4


class IdleWatch:
    """Calls something twice a second in a thread of its own, until it is stopped or refused.

    While a request computes, whoever computes does what is to be done, and this looks more and more seldom whether that
    is still so. Each look takes the interpreter's lock, and the thread that computes stands still until this one has a
    processor: tens of milliseconds where others want them too.

    Args:
        tend: called; returns whether it wants to be called again soon, and raises RequestError in the end.
        parts_begun: counts the parts of requests that were computed.
        every_s: between two calls otherwise; while a request computes, between two looks up to four times that.
    """

    def __init__(
        self, tend: Callable[[], bool], parts_begun: Callable[[], int] = lambda: 0, every_s: float = _EVERY_S
    ) -> None:
        self._tend, self._parts_begun, self._every_s = tend, parts_begun, every_s
        self._seen = parts_begun()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hobbit-elastic", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Call it no more. The thread's end is waited for, but not long: a call under way may want what we hold."""
        self._stopped.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(_END_S)

    def _run(self) -> None:
        pause_s = _BUSY_S
        while not self._stopped.wait(pause_s):
            if self._is_computing():
                pause_s = min(2 * max(pause_s, self._every_s / 2), _SELDOM * self._every_s)
                continue
            try:
                pause_s = _BUSY_S if self._tend() else self._every_s
            except RequestError:
                return

    def _is_computing(self) -> bool:
        """Whether a part was computed since this was asked last."""
        before, self._seen = self._seen, self._parts_begun()
        return self._seen != before
