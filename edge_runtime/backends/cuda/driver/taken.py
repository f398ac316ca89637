"""Taken: memory of the system that the driver holds for this process and the kernel counts as nobody's.

On a Jetson the GPU's memory is the system's. MemAvailable falls by it, and no process has it among its pages. The plan
counts it, so it has to be known when what is left is looked at again.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TypeVar

from edge_runtime.base.sizes import MIB
from edge_runtime.telemetry.process import anonymous_pages_bytes

T = TypeVar("T")
_WORTH_A_LOOK = MIB
"""Of less it is assumed: the kernel counts pages in batches."""


def _pages_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return anonymous_pages_bytes(file.read())


class Taken:
    """What is taken and was not given back. For several threads, and for finalizers.

    Some driver may take pages of the process, which `own_bytes` counts already. So they are counted before and after,
    and what they grew by is left out.

    Args:
        own_bytes: returns the anonymous memory of this process.
    """

    def __init__(self, own_bytes: Callable[[], int] = _pages_bytes) -> None:
        self._own, self._keys = own_bytes, count(1)
        self._live: dict[
            int, int
        ] = {}  # single operations on it cannot be interrupted; a finalizer may come in between

    @property
    def bytes(self) -> int:
        """All of it now."""
        return sum([*self._live.values()])

    def take(self, nbytes: int, allocate: Callable[[], T]) -> tuple[T, int]:
        """Allocate, and return what that gave with a key for `give_back`.

        Args:
            nbytes: of the system's memory that it takes.
            allocate: does it; what it raises is raised, and nothing was taken.
        """
        if nbytes < _WORTH_A_LOOK:
            made, grown = allocate(), 0
        else:
            before = self._own()
            made = allocate()
            grown = max(0, self._own() - before)
        key = next(self._keys)
        self._live[key] = max(0, nbytes - grown)
        return made, key

    def clear(self) -> None:
        """All of it was given back."""
        self._live.clear()

    def give_back(self, key: int) -> None:
        """It was given back; nothing happens for a key that was given before, or for 0."""
        self._live.pop(key, None)
