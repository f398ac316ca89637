"""uvicorn's HTTP protocol with a deadline for headers, against clients that never finish them."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


class GuardedProtocol(H11Protocol):
    """Closes a connection that waits too long between exchanges, whatever bytes trickle in."""

    header_timeout_s = 15.0
    most_connections = 1 << 20
    _deadline: asyncio.TimerHandle | None = None

    @classmethod
    def with_limits(cls, header_timeout_s: float, most_connections: int) -> type[GuardedProtocol]:
        """Return a protocol with another deadline, which closes connections beyond a number as they come."""
        limits = {"header_timeout_s": header_timeout_s, "most_connections": most_connections}
        return type("Protocol", (cls,), limits)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.abort()  # each idle one holds a descriptor
        self._arm()

    def data_received(self, data: bytes) -> None:
        """Bytes have come; while they are headers they do not extend the deadline."""
        super().data_received(data)
        self._arm()

    def on_response_complete(self) -> None:
        """An exchange is over; the next one's headers may come."""
        super().on_response_complete()
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._disarm()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.header_timeout_s, self._give_up)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        self.transport.abort()
