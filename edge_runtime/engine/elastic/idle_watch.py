"""IdleWatch: an engine that nobody asks for anything still gives back what others need, and reads what it will."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edge_runtime.base.errors import RequestError

_EVERY_S, _BUSY_S = 0.5, 0.005


class IdleWatch:
    """Calls something twice a second in a thread of its own, until it is stopped or refused.

    Args:
        tend: called; returns whether it wants to be called again soon, and raises RequestError in the end.
        every_s: between two calls otherwise.
    """

    def __init__(self, tend: Callable[[], bool], every_s: float = _EVERY_S) -> None:
        self._tend, self._every_s = tend, every_s
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="hobbit-elastic", daemon=True).start()

    def stop(self) -> None:
        """Call it no more; a call under way is not waited for."""
        self._stopped.set()

    def _run(self) -> None:
        pause_s = _BUSY_S
        while not self._stopped.wait(pause_s):
            try:
                pause_s = _BUSY_S if self._tend() else self._every_s
            except RequestError:
                return
