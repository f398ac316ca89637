"""One HTTP exchange under hostile conditions: bounded bodies, answers that stop when the client goes, timeouts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from edge_runtime.engine.job import Event, Job, Outcome, TokenEvent
from edge_runtime.service.openai.answers import Answer
from edge_runtime.service.openai.api_errors import ApiError, from_exception

_KEEP_ALIVE_S = 15.0
_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class HttpLimits:
    """What one client may take.

    Attributes:
        body_bytes: largest request body.
        body_timeout_s: longest time a body may take to arrive.
        write_timeout_s: longest time a client may leave data unread.
        header_timeout_s: longest time a request's headers may take to arrive.
        connections: connections at once; more get 503.
    """

    body_bytes: int = 2 << 20
    body_timeout_s: float = 30.0
    write_timeout_s: float = 60.0
    header_timeout_s: float = 15.0
    connections: int = 512


class Disconnected(Exception):
    """The client has gone."""


async def read_body(request: Request, limits: HttpLimits) -> bytes:
    """Return a JSON request's body.

    Raises:
        ApiError: it is too large, too slow, or not declared as JSON.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # also keeps web pages of other origins from posting here without asking first
        raise ApiError(415, "Content-Type: expected application/json.", code="unsupported_media_type")
    too_large = ApiError(413, f"body: expected at most {limits.body_bytes} bytes.", code="request_too_large")
    declared = request.headers.get("content-length", "0")
    if not declared.isascii() or not declared.isdigit() or int(declared[:20]) > limits.body_bytes:
        raise too_large
    body = bytearray()
    try:
        with anyio.fail_after(limits.body_timeout_s):
            async for part in request.stream():
                body += part
                if len(body) > limits.body_bytes:
                    raise too_large
    except TimeoutError as err:
        raise ApiError(408, "body: took too long to arrive.", code="request_timeout") from err
    except ClientDisconnect as err:
        raise Disconnected from err
    return bytes(body)


class JobEvents:
    """The events of one job, and whether its client is still there. Use as an async context manager.

    Args:
        job: made with `deliver` of this object.
        receive: ASGI; the body was read already.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._watcher: asyncio.Task[None] | None = None
        self._job: Job | None = None

    def deliver(self, event: Event) -> None:
        """Take an event from the serving loop's thread."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    def watch(self, job: Job) -> JobEvents:
        """Cancel the job when the client goes, or when the block ends early."""
        self._job = job
        return self

    async def __aenter__(self) -> JobEvents:
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._watcher is not None
        assert self._job is not None
        self._job.cancel()  # changes nothing once it is over
        self._watcher.cancel()
        with suppress(asyncio.CancelledError):
            await self._watcher

    async def batches(self) -> AsyncIterator[list[Event]]:
        """Yield the events that have come since the last batch, up to the outcome; [] when none came for 15 s.

        Raises:
            Disconnected: the client has gone.
            Exception: what the job failed with.
        """
        while True:
            try:
                event = await asyncio.wait_for(self._queue.get(), _KEEP_ALIVE_S)
            except asyncio.TimeoutError:
                yield []
                continue
            batch = [event]
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            failed = next((e for e in batch if isinstance(e, Exception)), None)
            if failed is not None:
                raise failed
            yield batch
            if isinstance(batch[-1], Outcome):
                return

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        assert self._job is not None
        self._job.cancel()
        self._queue.put_nowait(Disconnected())


async def whole_answer(events: JobEvents, answer: Answer) -> Response:
    """Wait for the end and return the answer as one object."""
    async for batch in events.batches():
        for event in batch:
            if isinstance(event, TokenEvent):
                answer.token(event)
            elif isinstance(event, Outcome):
                return JSONResponse(answer.whole(event))
    raise Disconnected


class EventStream(Response):
    """Sends an answer as server-sent events while it is generated.

    Args:
        events: of the job.
        job: the job, submitted already.
        answer: makes the updates of the stream.
        limits: for the write timeout.
    """

    def __init__(self, events: JobEvents, job: Job, answer: Answer, limits: HttpLimits) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        del self.headers["content-length"]
        self._events, self._job, self._answer, self._limits = events, job, answer, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything; return early if the client goes or does not read."""
        with suppress(Disconnected, TimeoutError):
            async with self._events.watch(self._job):
                await self._send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await self._write(send, _as_events(self._answer.first()))
                try:
                    async for batch in self._events.batches():
                        await self._write(send, self._updates(batch))
                except Disconnected:
                    raise
                except TimeoutError:
                    raise
                except Exception as err:  # noqa: BLE001 - the status is long sent: tell it in the stream
                    await self._write(send, _as_events([from_exception(err).to_json()]))
                await self._write(send, _DONE)
                await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    def _updates(self, batch: list[Event]) -> bytes:
        if not batch:
            return b": still here\n\n"
        out: list[dict[str, Any]] = []
        for event in batch:
            if isinstance(event, TokenEvent):
                out += self._answer.token(event)
            elif isinstance(event, Outcome):
                out += self._answer.end(event)
        return _as_events(out)

    async def _write(self, send: Send, data: bytes) -> None:
        if data:
            await self._send(send, {"type": "http.response.body", "body": data, "more_body": True})

    async def _send(self, send: Send, message: dict[str, Any]) -> None:
        with anyio.fail_after(self._limits.write_timeout_s):
            await send(message)


def _as_events(updates: list[dict[str, Any]]) -> bytes:
    return b"".join(b"data: " + json.dumps(update, separators=(",", ":")).encode() + b"\n\n" for update in updates)
