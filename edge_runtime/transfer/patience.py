"""How often something that failed is tried again, and how long it waits."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from edge_runtime.base.errors import HubError


class Again(Exception):
    """A request failed in a way that may pass; `pause_s` is what the server asked for, if anything."""

    def __init__(self, reason: str, pause_s: float | None = None) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


@dataclass(frozen=True)
class Retrying:
    """What a transfer puts up with.

    Attributes:
        tries: failures in a row, without a byte between them, after which it is over.
        first_pause_s: before the second try; doubled each time.
        longest_pause_s: also of what a server asks for.
        timeout_s: without an answer, or without a byte, a connection counts as broken.
    """

    tries: int = 6
    first_pause_s: float = 0.5
    longest_pause_s: float = 300.0
    timeout_s: float = 30.0


class Patience:
    """Counts the failures of one file."""

    def __init__(self, retrying: Retrying, stopped: threading.Event) -> None:
        self._retrying, self._stopped, self._tries = retrying, stopped, 0

    def wait(self, why: Again) -> None:
        """Wait before the next try.

        Raises:
            HubError: these were enough, or the transfer is ending.
        """
        self._tries += 1
        if self._tries >= self._retrying.tries or self._stopped.is_set():
            raise HubError(f"{why}, {self._tries} times in a row. Run the same command again to resume.") from why
        pause = self._retrying.first_pause_s * 2.0 ** (self._tries - 1) if why.pause_s is None else why.pause_s
        self._stopped.wait(min(pause, self._retrying.longest_pause_s))

    def progress(self) -> None:
        """Note that something arrived."""
        self._tries = 0
