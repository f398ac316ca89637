"""IdleWatch: an engine that nobody asks for anything still gives back what others need."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edge_runtime.base.errors import RequestError

_EVERY_S = 0.5


class IdleWatch:
    """Calls something twice a second in a thread of its own, until it is stopped or refused.

    Args:
        follow: called; raises RequestError once there is nothing to follow any more.
        every_s: between two calls.
    """

    def __init__(self, follow: Callable[[], None], every_s: float = _EVERY_S) -> None:
        self._follow, self._every_s = follow, every_s
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="hobbit-elastic", daemon=True).start()

    def stop(self) -> None:
        """Call it no more; a call under way is not waited for."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            try:
                self._follow()
            except RequestError:
                return
