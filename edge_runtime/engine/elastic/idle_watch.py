"""IdleWatch: an engine that nobody asks for anything still gives back what others need, and reads what it will."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edge_runtime.base.errors import RequestError

_EVERY_S, _BUSY_S = 0.5, 0.005
_END_S = 0.2


class IdleWatch:
    """Calls something twice a second in a thread of its own, until it is stopped or refused.

    Args:
        tend: called; returns whether it wants to be called again soon, and raises RequestError in the end.
        every_s: between two calls otherwise.
    """

    def __init__(self, tend: Callable[[], bool], every_s: float = _EVERY_S) -> None:
        self._tend, self._every_s = tend, every_s
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
            try:
                pause_s = _BUSY_S if self._tend() else self._every_s
            except RequestError:
                return
