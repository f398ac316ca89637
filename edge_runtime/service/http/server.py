"""Runs the service: uvicorn on the listening sockets, from the first client while loading to the last one drained."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import socket
from collections.abc import Iterator, Sequence

import uvicorn

from edge_runtime.service.http.app import create_app
from edge_runtime.service.http.connection import GuardedProtocol
from edge_runtime.service.http.descriptors import allow_connections, report_exhaustion
from edge_runtime.service.http.exchange import HttpLimits
from edge_runtime.service.http.listen import BACKLOG, Listeners
from edge_runtime.service.ops.health import Phase
from edge_runtime.service.ops.lifecycle import Lifecycle
from edge_runtime.service.ops.settings import Settings
from edge_runtime.service.service import Service

_LOG = logging.getLogger(__name__)
_MAX_HEADER_BYTES = 64 << 10
_KEEP_ALIVE_S = 30
_POLL_S = 0.1
_TO_REFUSE = 32
"""Connections beyond the limit that get an answer, 503; further ones are closed at once."""
_ACCEPTED_AT_ONCE = 16
"""What the loop accepts in one go. Where no descriptor is left, each of them is tried and fails once a second."""
_M_ARENA_MAX = -8
_MAX_ARENAS = 2


def serve(
    service: Service,
    listeners: Listeners,
    settings: Settings,
    *,
    limits: HttpLimits,
    api_keys: Sequence[str],
    allowed_origins: Sequence[str],
    drain_timeout_s: float,
) -> None:
    """Serve until told to stop, then drain.

    Args:
        service: not started yet.
        listeners: where to listen; closed at the end.
        settings: what SIGHUP reads again.
        limits: of one exchange.
        api_keys: bearer keys, none without.
        allowed_origins: of web pages that may use the API.
        drain_timeout_s: longest time requests under way may take once stopping.

    Raises:
        HobbitError: loading failed.
    """
    # a Host check is for browsers; behind a unix socket or with a key there is none to fear
    local_only = listeners.local_only and not api_keys and listeners.unix_path is None
    app = create_app(service, limits, api_keys=api_keys, local_only=local_only, allowed_origins=allowed_origins)
    _limit_malloc_arenas()
    connections = allow_connections(limits.connections)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(
        app,
        http=GuardedProtocol.with_limits(limits.header_timeout_s, connections + _TO_REFUSE),
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=connections,
        backlog=_ACCEPTED_AT_ONCE,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
    )
    try:
        asyncio.run(_run(service, GuardedServer(config), listeners, settings, drain_timeout_s))
    finally:
        service.close()
        listeners.close()
    if service.error is not None:
        raise service.error


async def _run(
    service: Service, server: GuardedServer, listeners: Listeners, settings: Settings, drain_timeout_s: float
) -> None:
    lifecycle = Lifecycle(service, os.environ, settings)
    lifecycle.start()
    service.start()
    serving = asyncio.create_task(server.serve(sockets=listeners.sockets))
    try:
        for url in listeners.urls:
            _LOG.info("listening on %s", url)
        await _until_stopping(service, serving)
        await _until_drained(service, drain_timeout_s)
    finally:
        server.should_exit = True
        await serving
        await lifecycle.close()


async def _until_stopping(service: Service, serving: asyncio.Task[None]) -> None:
    while service.readiness.phase in (Phase.LOADING, Phase.READY) and not serving.done():
        await asyncio.sleep(_POLL_S)


async def _until_drained(service: Service, timeout_s: float) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not service.join(0):
        if loop.time() > deadline:
            _LOG.warning("requests still run %.0f s after the stop; they are cut off", timeout_s)
            return
        await asyncio.sleep(_POLL_S)


def _limit_malloc_arenas() -> None:
    """Keep glibc from giving every thread a heap of its own: over days each grows to its thread's largest request."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _MAX_ARENAS)


class GuardedServer(uvicorn.Server):
    """Leaves signals to `Lifecycle`, and lets as many connections wait as there may be."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept; as many connections may wait for that as before."""
        await super().startup(sockets)
        asyncio.get_running_loop().set_exception_handler(report_exhaustion)
        for sock in sockets or []:
            sock.listen(BACKLOG)  # uvicorn made it as short as what is accepted at once

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield
