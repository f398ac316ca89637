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


_MOST_LATE = 1024
"""Spans kept until their work is over; before there are more, those that are over are added up."""


class Span:
    """Adds the time of each `with` block to one phase. Not for blocks inside each other."""

    __slots__ = ("_clock", "_name", "_spans", "_started")

    def __init__(self, spans: Spans, clock: Clock, name: str) -> None:
        self._spans, self._clock, self._name = spans, clock, name
        self._started: Any = None

    def __enter__(self) -> None:
        self._started = self._clock.mark()

    def __exit__(self, *exception: object) -> None:
        self._spans.add(self._name, self._clock.mark(), self._started)


class Spans:
    """Nanoseconds spent in each named phase since the start.

    Args:
        clock: of whatever does the work.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or HostClock()
        self._elapsed = self._clock.elapsed_ns
        self._ns: dict[str, int] = {}
        self._late: list[tuple[str, Any, Any]] = []
        self._spans: dict[str, Span] = {}

    @property
    def ns(self) -> dict[str, int]:
        """Nanoseconds of each phase, as far as the work has come; a copy."""
        self._add_up()
        return dict(self._ns)

    def span(self, name: str) -> Span:
        """Time a block as part of a phase: ``with spans.span("trunk"):``."""
        found = self._spans.get(name)
        if found is None:
            found = self._spans[name] = Span(self, self._clock, name)
        return found

    def add(self, name: str, end: Any, start: Any) -> None:
        """Add the time between two marks to a phase, now or once the work is over."""
        elapsed = self._elapsed(end, start)
        if elapsed is not None:
            self._ns[name] = self._ns.get(name, 0) + elapsed
            return
        self._late.append((name, end, start))
        if len(self._late) > _MOST_LATE:
            self._add_up()

    def _add_up(self) -> None:
        late, self._late = self._late, []
        for name, end, start in late:
            elapsed = self._elapsed(end, start)
            if elapsed is None:
                self._late.append((name, end, start))
            else:
                self._ns[name] = self._ns.get(name, 0) + elapsed
