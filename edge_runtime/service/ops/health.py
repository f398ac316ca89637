"""Whether the service is alive and takes requests: its phase, and the heartbeat of the serving loop."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from time import monotonic


class Phase(enum.Enum):
    """The phases of the service's life, in order."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class Heartbeat:
    """Shows that the serving loop runs: the loop itself calls `beat` after each step and each idle tick.

    A watchdog listens here, so a hung loop stops feeding it, whatever the HTTP side still answers.
    """

    def __init__(self) -> None:
        self.listeners: list[Callable[[], None]] = []
        self._last = monotonic()

    @property
    def age_s(self) -> float:
        """Seconds since the last beat."""
        return monotonic() - self._last

    def beat(self) -> None:
        """Say that the loop is alive. Listeners must not block."""
        self._last = monotonic()
        for listener in self.listeners:
            listener()


class Readiness:
    """The phase of the service, and the reason why it is not ready. Thread-safe."""

    def __init__(self) -> None:
        self._phase, self._reason = Phase.LOADING, "the model is loading"
        self._changed = threading.Condition()
        self.listeners: list[Callable[[Phase, str], None]] = []

    @property
    def phase(self) -> Phase:
        """The phase now."""
        return self._phase

    @property
    def reason(self) -> str:
        """Why it is not ready, for people."""
        return self._reason

    def set(self, phase: Phase, reason: str = "") -> None:
        """Change the phase and tell the listeners. There is no way back: a service that drains never becomes ready."""
        order = list(Phase)
        with self._changed:
            if order.index(phase) < order.index(self._phase):
                return
            self._phase, self._reason = phase, reason
            self._changed.notify_all()
        for listener in self.listeners:
            listener(phase, reason)

    def wait_until_loaded(self, timeout_s: float | None = None) -> Phase:
        """Block until loading is over, well or not; return the phase."""
        with self._changed:
            self._changed.wait_for(lambda: self._phase is not Phase.LOADING, timeout_s)
            return self._phase
