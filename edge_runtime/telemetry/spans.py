"""Time by phase, by the clock of whatever does the work. Cheap enough to be on always: two marks a span."""

from __future__ import annotations

import operator
from time import perf_counter_ns
from typing import Any, Protocol


class Clock(Protocol):
    """Measures time. Where work is queued, the host's clock says only when it was queued."""

    def mark(self) -> Any:
        """Return a point in the work: a number, or an event the work will pass."""
        ...

    def elapsed_ns(self, end: Any, start: Any) -> int | None:
        """Return the nanoseconds between two marks; None while the work has not passed the second."""
        ...


class HostClock:
    """The host's monotonic clock. Implements `Clock`."""

    mark = staticmethod(perf_counter_ns)
    elapsed_ns = staticmethod(operator.sub)


_LATE_SPANS = 1024
"""Spans kept until they are looked at again: those whose work is over by then are added up."""


class Span:
    """Adds the time of each `with` block to one phase. Not for blocks inside each other.

    Args:
        clock: of whatever does the work.
    """

    __slots__ = ("_elapsed", "_late", "_mark", "_most_late", "_ns", "_started")

    def __init__(self, clock: Clock) -> None:
        self._mark, self._elapsed = clock.mark, clock.elapsed_ns
        self._started: Any = None
        self._ns = 0
        self._late: list[tuple[Any, Any]] = []
        self._most_late = _LATE_SPANS

    def __enter__(self) -> None:
        self._started = self._mark()

    def __exit__(self, *exception: object) -> None:
        end = self._mark()
        elapsed = self._elapsed(end, self._started)
        if elapsed is not None:
            self._ns += elapsed
            return
        self._late.append((end, self._started))
        if len(self._late) > self._most_late:
            self._add_up()
            self._most_late = len(self._late) + _LATE_SPANS

    @property
    def ns(self) -> int:
        """Nanoseconds of all blocks, as far as the work has come."""
        if self._late:
            self._add_up()
        return self._ns

    def _add_up(self) -> None:
        late, self._late = self._late, []
        for end, start in late:
            elapsed = self._elapsed(end, start)
            if elapsed is None:
                self._late.append((end, start))
            else:
                self._ns += elapsed


class Spans:
    """Nanoseconds spent in each named phase since the start.

    Args:
        clock: of whatever does the work.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or HostClock()
        self._spans: dict[str, Span] = {}

    @property
    def ns(self) -> dict[str, int]:
        """Nanoseconds of each phase, as far as the work has come; a copy."""
        return {name: span.ns for name, span in self._spans.items()}

    def span(self, name: str) -> Span:
        """Time a block as part of a phase: ``with spans.span("trunk"):``. Always the same object for a name."""
        found = self._spans.get(name)
        if found is None:
            found = self._spans[name] = Span(self._clock)
        return found
