"""Monotonic time by phase. Cheap enough to be on always: one dictionary add per span."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter_ns


class Spans:
    """Nanoseconds spent in each named phase since construction or `reset`."""

    def __init__(self) -> None:
        self.ns: dict[str, int] = {}

    def add(self, name: str, nanoseconds: int) -> None:
        """Add time to a phase."""
        self.ns[name] = self.ns.get(name, 0) + nanoseconds

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time a block as part of a phase."""
        started = perf_counter_ns()
        try:
            yield
        finally:
            self.add(name, perf_counter_ns() - started)

    def reset(self) -> None:
        """Forget everything."""
        self.ns.clear()
