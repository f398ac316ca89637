"""Request bodies in flight: how many there may be, and what the memory plan counts for them.

A short body is read as it comes; connections are bounded, and so is what all of those take. A longer one first takes
one of a few places, and keeps it until its prompt has become tokens.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from edge_runtime.service.openai.api_errors import ApiError

SHORT_BYTES = 16 << 10
PLACES = 2
_COPIES = 6
"""A body as bytes, its text with four bytes a character where one is outside the basic plane, and what malloc keeps."""
_PATIENCE_S = 5.0


def request_bytes(body_limit: int) -> int:
    """Return the memory that bodies in flight may take, for the memory plan."""
    return PLACES * _COPIES * body_limit


class BodyPlaces:
    """The places of one server."""

    def __init__(self, places: int = PLACES, patience_s: float = _PATIENCE_S) -> None:
        self._free, self.patience_s = asyncio.Semaphore(places), patience_s

    async def take(self) -> None:
        """Wait for a place.

        Raises:
            ApiError: there is none for a while.
        """
        try:
            await asyncio.wait_for(self._free.acquire(), self.patience_s)
        except (asyncio.TimeoutError, TimeoutError) as err:
            raise ApiError(
                503, "body: other large requests are being read. Try again.", type="server_error", code="busy",
                headers={"Retry-After": "1"},
            ) from err  # fmt: skip

    def give_back(self) -> None:
        """Leave a place to the next."""
        self._free.release()


class BodyPlace:
    """The place of one request, taken once its body is long. Use as an async context manager."""

    def __init__(self, places: BodyPlaces) -> None:
        self._places, self._is_taken = places, False

    async def grow(self, size: int) -> None:
        """Say that the body has so many bytes.

        Raises:
            ApiError: it needs a place, and there is none for a while.
        """
        if size > SHORT_BYTES and not self._is_taken:
            await self._places.take()
            self._is_taken = True

    async def __aenter__(self) -> BodyPlace:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_taken:
            self._places.give_back()
