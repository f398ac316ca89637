"""Time as the GPU passes it: events in the stream of the work."""

from __future__ import annotations

from time import perf_counter_ns

from edge_runtime.backends.cuda.driver import Stream
from edge_runtime.backends.cuda.events import Events, Recorded


class CudaClock:
    """Implements `Clock`.

    Args:
        stream: the work.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream, self._events = stream, Events(stream.device, timed=True)

    def mark(self) -> Recorded | int:
        """See `Clock.mark`: the host's time where launches are held back, which an event would start."""
        return perf_counter_ns() if self._stream.holds else self._events.record(self._stream)

    def elapsed_ns(self, end: Recorded | int, start: Recorded | int) -> int | None:
        """See `Clock.elapsed_ns`; 0 for a span in which launches began, or ceased, to be held back."""
        if isinstance(end, int) or isinstance(start, int):
            return end - start if isinstance(end, int) and isinstance(start, int) else 0
        return round(1e6 * end.event.ms_since(start.event)) if end.is_done() else None

    def close(self) -> None:
        """Give the events back. Safe to call twice."""
        self._events.close()
