"""What this project uses of libraries beyond their documentation: names and behaviour. docs/adr/0074 has the list.

A failure here after an upgrade says which use to look at before the upper bound in pyproject.toml may be raised.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http import h11_impl

from edge_runtime.service.http.connection import GuardedProtocol
from edge_runtime.service.http.server import GuardedServer

HEADER_TIMEOUT_S = 0.3
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def slow_app(scope: Any, receive: Any, send: Any) -> None:
    """Answers after longer than the deadline for headers."""
    await asyncio.sleep(2 * HEADER_TIMEOUT_S)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    """Serve `slow_app` as the service does; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            slow_app, http=GuardedProtocol.with_limits(HEADER_TIMEOUT_S, 64), loop="asyncio", ws="none", lifespan="off",
            log_config=None, access_log=False, h11_max_incomplete_event_size=1000,
        )  # fmt: skip
        server = GuardedServer(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        await task


async def until_closed(reader: asyncio.StreamReader) -> float:
    started = monotonic()
    try:
        await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        pass
    return monotonic() - started


def test_uvicorn_connections_obey_a_deadline_for_headers_alone() -> None:
    """`connection_made`, `data_received`, `on_response_complete`, `cycle.response_complete`, `loop`, `transport`."""

    async def check() -> None:
        async with serving() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(REQUEST[:10])
            assert await until_closed(reader) < 5, "headers that never end: closed at the deadline"
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(REQUEST)
            answer = await asyncio.wait_for(reader.readuntil(b"ok"), 10)
            assert answer.startswith(b"HTTP/1.1 200"), "a slow answer is not cut off by it"
            assert await until_closed(reader) < 5, "after an answer it runs again"
            writer.close()

    asyncio.run(check())


def test_uvicorn_leaves_signals_alone() -> None:
    """`Server.capture_signals`, `started`, `should_exit`."""

    async def check() -> None:
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        async with serving():
            assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    asyncio.run(check())
    assert "self.capture_signals()" in inspect.getsource(uvicorn.Server)


def test_uvicorn_names() -> None:
    for name in ("connection_made", "data_received", "connection_lost", "on_response_complete"):
        assert callable(getattr(h11_impl.H11Protocol, name)), name
    source = inspect.getsource(h11_impl)
    for use in ("self.cycle", "self.loop", "self.transport", "self.response_complete", "self.on_response_complete"):
        assert use in source, use


def test_onnxruntime_errors_are_found() -> None:
    """`onnxruntime.capi.onnxruntime_pybind11_state` is the only place that has its exceptions."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    for name in ("Fail", "InvalidArgument", "InvalidGraph", "NotImplemented", "RuntimeException"):
        assert issubclass(getattr(state, name), Exception), name


def test_llguidance_says_what_is_wrong() -> None:
    """`LLMatcher` and `LLTokenizer` are public, but without promises of stability."""
    import llguidance

    for name in ("compute_bitmask", "consume_token", "is_error", "get_error", "is_stopped", "grammar_from_regex",
                 "grammar_from_json_schema", "grammar_from_lark"):  # fmt: skip
        assert callable(getattr(llguidance.LLMatcher, name)), name
    assert callable(llguidance.LLTokenizer.decode_bytes)


@pytest.mark.parametrize("name", ["choose_encoder", "floatToGoString"])
def test_prometheus_client_formats(name: str) -> None:
    """The text of a number, and the choice of a format, are not in its documentation."""
    from prometheus_client import exposition, utils

    found = getattr(exposition, name, None) or getattr(utils, name)
    assert callable(found)


@pytest.mark.parametrize(("library", "bound"), [("uvicorn", r">=0\.32,<\d"), ("jinja2", r">=3\.1\.6")])
def test_the_bounds_are_written_down(library: str, bound: str) -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert re.search(rf'"{library}{bound}', text)
