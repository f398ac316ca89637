"""Time by phase, by the clock of whatever does the work. Cheap enough to be on always: two marks a span."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter_ns
from typing import Any, NamedTuple, Protocol

from edge_runtime.base.contexts import HostSpan, Untimed


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


class SpanEvent(NamedTuple):
    """One block that was timed while somebody recorded.

    Attributes:
        name: the phase.
        layer_idx: the layer that ran; None outside of layers.
        start_ns, end_ns: by the host's clock.
    """

    name: str
    layer_idx: int | None
    start_ns: int
    end_ns: int


_Note = Callable[[str, int, int], None]
_LATE_SPANS = 1024
"""Spans kept until they are looked at again: those whose work is over by then are added up."""


class DeviceSpan:
    """Adds the time of each `with` block to one phase, by a clock of its own. Not for blocks inside each other.

    By the host's clock `HostSpan` does so natively.

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


Span = HostSpan | DeviceSpan


class Spans:
    """Nanoseconds spent in each named phase since the start.

    Args:
        clock: of whatever does the work.

    Attributes:
        layer_idx: the layer that runs now, for who records; None outside of layers.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or HostClock()
        self._is_hosts = isinstance(self._clock, HostClock)
        self._spans: dict[str, Span] = {}
        self._added: dict[str, int] = {}
        self._note: _Note | None = None
        self._untimed = Untimed()
        self.layer_idx: int | None = None

    @property
    def ns(self) -> dict[str, int]:
        """Nanoseconds of each phase, as far as the work has come; a copy."""
        return {name: span.ns + self._added.get(name, 0) for name, span in self._spans.items()}

    def add(self, name: str, ns: int) -> None:
        """Add time of a phase that was measured elsewhere, by the host's clock."""
        self.span(name)
        self._added[name] = self._added.get(name, 0) + ns

    @property
    def is_recorded(self) -> bool:
        """Whether somebody is told of every block."""
        return self._note is not None

    def span(self, name: str) -> Span:
        """Time a block as part of a phase: ``with spans.span("trunk"):``. Always the same object for a name."""
        found = self._spans.get(name)
        if found is None:
            found = self._spans[name] = HostSpan(name) if self._is_hosts else DeviceSpan(self._clock)
            self._set_note(self._note)
        return found

    def host_span(self, name: str) -> Span | Untimed:
        """Time a block of the host's own work while somebody records; else do nothing, at next to no cost.

        25 spans a token would take 2 % of a token of 1 ms. Nothing is timed by a device's clock: the host works beside
        it, and phases would overlap.
        """
        return self.span(name) if self._note is not None else self._untimed

    @contextmanager
    def recording(self, limit: int) -> Iterator[list[SpanEvent]]:
        """Record the first `limit` blocks timed inside this one; none by a clock that is not the host's."""
        events: list[SpanEvent] = []

        def note(name: str, start_ns: int, end_ns: int) -> None:
            if len(events) < limit:
                events.append(SpanEvent(name, self.layer_idx, start_ns, end_ns))

        self._set_note(note if self._is_hosts else None)
        try:
            yield events
        finally:
            self._set_note(None)

    def _set_note(self, note: _Note | None) -> None:
        self._note = note
        for span in self._spans.values():
            if isinstance(span, HostSpan):
                span.note = note
