"""How long tests wait: until something has happened, with a limit that only a hang reaches, however busy the machine."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 120.0
T = TypeVar("T")


def until(
    condition: Callable[[], T], what: str = "condition", pause_s: float = 0.01, patience_s: float = PATIENCE_S
) -> T:
    """Wait for something to be true, and return it."""
    deadline = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"timed out: {what}"
        time.sleep(pause_s)
    return found


async def until_async(condition: Callable[[], object], what: str = "condition") -> None:
    """The same inside an event loop."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"timed out: {what}"
        await asyncio.sleep(0.01)


class Turnstile:
    """Lets through as many waiters as were let in. Has the `wait` of an event."""

    def __init__(self) -> None:
        self._permits = threading.Semaphore(0)

    def let_in(self, count: int = 1) -> None:
        self._permits.release(count)

    def wait(self, timeout: float) -> bool:
        return self._permits.acquire(timeout=timeout)
