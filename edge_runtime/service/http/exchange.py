"""One HTTP exchange under hostile conditions: bounded bodies, answers that stop when the client goes, timeouts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edge_runtime.engine.job import Event, Job, Outcome, PromptEvent, TokenEvent
from edge_runtime.service.http.bodies import BodyPlace
from edge_runtime.service.http.json_answer import json_answer, send_in_time
from edge_runtime.service.openai.answers import Answer
from edge_runtime.service.openai.api_errors import ApiError, from_exception
from edge_runtime.service.openai.logprobs import encoded

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


Told = TokenEvent | PromptEvent | Outcome
"""What a request hears of its jobs while none has failed."""


class Disconnected(Exception):
    """The client has gone."""


async def read_body(request: Request, limits: HttpLimits, place: BodyPlace) -> bytearray:
    """Return a JSON request's body.

    Args:
        request: its headers were read.
        limits: of the exchange.
        place: what a long body needs.

    Raises:
        ApiError: it is too large, too slow, not declared as JSON, or others are being read.
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
                await place.grow(len(body))
    except TimeoutError as err:
        raise ApiError(408, "body: took too long to arrive.", code="request_timeout") from err
    except ClientDisconnect as err:
        raise Disconnected from err
    return body


class JobEvents:
    """The events of a request's jobs, and whether its client is still there. Use as an async context manager.

    Args:
        receive: ASGI; the body was read already.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._watcher: asyncio.Task[None] | None = None
        self._jobs: Sequence[Job] = ()

    def deliver(self, index: int, event: Event) -> None:
        """Take an event of a job, by its number, from the serving loop's thread."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, event))

    def watch(self, jobs: Sequence[Job]) -> JobEvents:
        """Cancel the jobs when the client goes, or when the block ends early."""
        self._jobs = jobs
        return self

    async def __aenter__(self) -> JobEvents:
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._watcher is not None
        self._cancel()  # changes nothing once they are over
        self._watcher.cancel()
        with suppress(asyncio.CancelledError):
            await self._watcher

    async def batches(self) -> AsyncIterator[list[tuple[int, Told]]]:
        """Yield the events that have come since the last batch, up to the last outcome; [] when none came for 15 s.

        Raises:
            Disconnected: the client has gone.
            Exception: what a job failed with.
        """
        running = len(self._jobs)
        while running:
            try:
                found = await asyncio.wait_for(self._queue.get(), _KEEP_ALIVE_S)
            except asyncio.TimeoutError:
                yield []
                continue
            batch = [found]
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            failed = next((event for _, event in batch if isinstance(event, Exception)), None)
            if failed is not None:
                raise failed
            running -= sum(isinstance(event, Outcome) for _, event in batch)
            yield [(index, event) for index, event in batch if isinstance(event, Told)]

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._cancel()
        self._queue.put_nowait((0, Disconnected()))

    def _cancel(self) -> None:
        for job in self._jobs:
            job.cancel()


async def whole_answer(events: JobEvents, answer: Answer, limits: HttpLimits) -> Response:
    """Wait for the end and return the answer as one object."""
    async for batch in events.batches():
        for index, event in batch:
            if isinstance(event, Outcome):
                answer.note_end(index, event)
            else:
                answer.note(index, event)
    return json_answer(encoded(answer.whole()), limits.write_timeout_s)


class EventStream(Response):
    """Sends an answer as server-sent events while it is generated.

    Args:
        events: of the jobs.
        jobs: submitted already.
        answer: makes the updates of the stream.
        limits: for the write timeout.
    """

    def __init__(self, events: JobEvents, jobs: Sequence[Job], answer: Answer, limits: HttpLimits) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        del self.headers["content-length"]
        self._events, self._jobs, self._answer, self._limits = events, jobs, answer, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything; return early if the client goes or does not read."""
        with suppress(Disconnected, TimeoutError):
            async with self._events.watch(self._jobs):
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

    def _updates(self, batch: list[tuple[int, Told]]) -> bytes:
        if not batch:
            return b": still here\n\n"
        out: list[dict[str, Any]] = []
        for index, event in batch:
            if isinstance(event, Outcome):
                out += self._answer.end(index, event)
            else:
                out += self._answer.note(index, event)
        return _as_events(out)

    async def _write(self, send: Send, data: bytes) -> None:
        if data:
            await self._send(send, {"type": "http.response.body", "body": data, "more_body": True})

    async def _send(self, send: Send, message: dict[str, Any]) -> None:
        await send_in_time(send, message, self._limits.write_timeout_s)


def _as_events(updates: list[dict[str, Any]]) -> bytes:
    return b"".join(b"data: " + json.dumps(update, separators=(",", ":")).encode() + b"\n\n" for update in updates)
