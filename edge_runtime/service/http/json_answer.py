"""Sends JSON in parts as it is encoded: with log probabilities, that of a long answer takes tens of megabytes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_JSON = "application/json"


def json_answer(parts: Iterator[bytes], write_timeout_s: float) -> Response:
    """Return a response: with its length if there is one part only.

    Args:
        parts: of the body, at least one.
        write_timeout_s: longest time the client may leave a part unread.
    """
    first, second = next(parts), next(parts, None)
    if second is None:
        return Response(first, media_type=_JSON)
    return _LongAnswer(chain((first, second), parts), write_timeout_s)


async def send_in_time(send: Send, message: dict[str, Any], timeout_s: float) -> None:
    """Send a message of ASGI.

    Raises:
        TimeoutError: the client does not read.
    """
    with anyio.fail_after(timeout_s):
        await send(message)


class _LongAnswer(Response):
    """Encodes each part once the one before is on its way."""

    def __init__(self, parts: Iterable[bytes], write_timeout_s: float) -> None:
        super().__init__(media_type=_JSON)
        del self.headers["content-length"]
        self._parts, self._write_timeout_s = parts, write_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything; return early if the client does not read."""
        with suppress(TimeoutError):
            await self._send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            for part in self._parts:
                await self._send(send, {"type": "http.response.body", "body": part, "more_body": True})
                await asyncio.sleep(0)  # others have their turn
            await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, message: dict[str, Any]) -> None:
        await send_in_time(send, message, self._write_timeout_s)
