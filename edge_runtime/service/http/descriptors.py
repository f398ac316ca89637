"""File descriptors: as many as the connections need, and what happens where there are no more."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
from typing import Any

_LOG = logging.getLogger(__name__)
_RESERVED = 192
"""For the engine's files, sockets of jobs, and libraries; connections get the rest."""
_FEWEST = 8
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def allow_connections(wanted: int) -> int:
    """Raise this process's limit of descriptors as far as it may, and return how many connections it leaves room for.

    Args:
        wanted: most connections at once.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _RESERVED + _open_now()
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    allowed = max(_FEWEST, min(wanted, soft - _RESERVED - _open_now()))
    _LOG.warning("the limit of open files (%d) leaves room for %d connections, not %d", soft, allowed, wanted)
    return allowed


def report_exhaustion(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Exception handler of a loop: no descriptor is left for a connection that waits. It is tried again in a second."""
    err = context.get("exception")
    if isinstance(err, OSError) and err.errno in _EXHAUSTED:
        _LOG.warning("connections wait: %s", err.strerror)
    else:
        loop.default_exception_handler(context)


def _open_now() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 64
