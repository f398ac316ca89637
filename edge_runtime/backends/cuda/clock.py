"""Time as the GPU passes it: events in the stream of the work."""

from __future__ import annotations

from edge_runtime.backends.cuda.driver import Stream
from edge_runtime.backends.cuda.events import Events, Recorded


class CudaClock:
    """Implements `Clock`.

    Args:
        stream: the work.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream, self._events = stream, Events(stream.device, timed=True)

    def mark(self) -> Recorded:
        """See `Clock.mark`."""
        return self._events.record(self._stream)

    def elapsed_ns(self, end: Recorded, start: Recorded) -> int | None:
        """See `Clock.elapsed_ns`."""
        return round(1e6 * end.event.ms_since(start.event)) if end.is_done() else None

    def close(self) -> None:
        """Give the events back. Safe to call twice."""
        self._events.close()
