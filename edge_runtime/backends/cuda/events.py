"""Events that are used again: as many exist as are waited for at once."""

from __future__ import annotations

from edge_runtime.backends.cuda.driver import Device, Event, Stream


class Recorded:
    """A point in a stream's work. Implements the seam's `Event`; dropped, it is used again.

    Args:
        pool: takes it back.
        event: the driver's.
    """

    __slots__ = ("_pool", "event")

    def __init__(self, pool: Events, event: Event) -> None:
        self._pool, self.event = pool, event

    def is_done(self) -> bool:
        """See `Event.is_done`."""
        return self.event.is_done()

    def wait(self, timeout_s: float) -> bool:
        """See `Event.wait`."""
        return self.event.wait(timeout_s)

    def __del__(self) -> None:
        self._pool.take_back(self.event)


class Events:
    """Events of one device.

    Args:
        device: the GPU.
        timed: they measure time.
    """

    def __init__(self, device: Device, *, timed: bool = False) -> None:
        self._device, self._timed = device, timed
        self._free: list[Event] = []
        self._is_closed = False

    def record(self, stream: Stream) -> Recorded:
        """Mark the end of a stream's work so far."""
        event = self._free.pop() if self._free else Event(self._device, timed=self._timed)
        try:
            stream.record(event)
        except BaseException:
            event.close()
            raise
        return Recorded(self, event)

    def take_back(self, event: Event) -> None:
        """Nobody asks for this one any more."""
        if self._is_closed:
            event.close()
        else:
            self._free.append(event)

    def close(self) -> None:
        """Give the events back; those still asked for follow when they are dropped. Safe to call twice."""
        self._is_closed = True
        while self._free:
            self._free.pop().close()
