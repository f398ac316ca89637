"""Monotonic time by phase. Cheap enough to be on always: two clock reads and an addition per span."""

from __future__ import annotations

from time import perf_counter_ns


class Span:
    """Adds the time of each `with` block to one phase. Not for blocks inside each other."""

    __slots__ = ("_name", "_ns", "_started")

    def __init__(self, ns: dict[str, int], name: str) -> None:
        self._ns, self._name, self._started = ns, name, 0

    def __enter__(self) -> None:
        self._started = perf_counter_ns()

    def __exit__(self, *exception: object) -> None:
        self._ns[self._name] = self._ns.get(self._name, 0) + perf_counter_ns() - self._started


class Spans:
    """Nanoseconds spent in each named phase since construction or `reset`."""

    def __init__(self) -> None:
        self.ns: dict[str, int] = {}
        self._spans: dict[str, Span] = {}

    def span(self, name: str) -> Span:
        """Time a block as part of a phase: ``with spans.span("trunk"):``."""
        found = self._spans.get(name)
        if found is None:
            found = self._spans[name] = Span(self.ns, name)
        return found

    def reset(self) -> None:
        """Forget everything."""
        self.ns.clear()
