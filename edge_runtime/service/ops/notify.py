"""Talks to systemd in pure stdlib: readiness, status, watchdog and reload notices, and sockets it opened for us."""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Callable, MutableMapping
from time import CLOCK_MONOTONIC, clock_gettime_ns, monotonic
from typing import TYPE_CHECKING

from edge_runtime.base.errors import ConfigError

if TYPE_CHECKING:
    from edge_runtime.service.ops.health import Heartbeat

_log = logging.getLogger(__name__)
_FIRST_FD = 3
_MAX_STATUS = 512
# systemd's advice is to feed it at half the interval; a quarter leaves room for one slow token
_FEEDS_PER_INTERVAL = 4


class Notifier:
    """Sends sd_notify datagrams. Without NOTIFY_SOCKET it does nothing, so callers need not ask.

    Args:
        address: NOTIFY_SOCKET: an absolute path, or ``@name`` in the abstract namespace; None to stay silent.
    """

    def __init__(self, address: str | None) -> None:
        self._socket: socket.socket | None = None
        if not address:
            return
        if address[0] not in "/@":
            raise ConfigError(f"NOTIFY_SOCKET: expected an absolute path or @name, got {address!r}. Unset it.")
        self._address = "\0" + address[1:] if address[0] == "@" else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        # the serving loop notifies: a manager that does not read must not stop it
        self._socket.setblocking(False)

    @staticmethod
    def from_environment(env: MutableMapping[str, str]) -> Notifier:
        """Take NOTIFY_SOCKET out of the environment, so that child processes do not inherit it."""
        return Notifier(env.pop("NOTIFY_SOCKET", None))

    @property
    def is_connected(self) -> bool:
        """Whether anybody asked to be notified."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """Say that start-up, or a reload, is complete."""
        self._send(READY="1", STATUS=_one_line(status))

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(STATUS=_one_line(text))

    def watchdog(self) -> None:
        """Say that the serving loop is alive."""
        self._send(WATCHDOG="1")

    def reloading(self, status: str) -> None:
        """Say that a reload began; `ready` ends it."""
        self._send(
            RELOADING="1", MONOTONIC_USEC=str(clock_gettime_ns(CLOCK_MONOTONIC) // 1000), STATUS=_one_line(status)
        )

    def stopping(self, status: str) -> None:
        """Say that shutting down began."""
        self._send(STOPPING="1", STATUS=_one_line(status))

    def failed(self, status: str, errno: int = 0) -> None:
        """Say why the service is about to exit with an error."""
        self._send(STATUS=_one_line(status), **({"ERRNO": str(errno)} if errno else {}))

    def extend_timeout(self, seconds: float) -> None:
        """Ask for this much longer to start, reload or stop, counted from now."""
        self._send(EXTEND_TIMEOUT_USEC=str(int(seconds * 1e6)))

    def close(self) -> None:
        """Release the socket. Safe to call twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, **fields: str) -> None:
        if self._socket is None:
            return
        message = "\n".join(f"{name}={value}" for name, value in fields.items())
        try:
            self._socket.sendto(message.encode(), self._address)
        except OSError as err:
            _log.warning("sd_notify: %s not sent: %s", "/".join(fields), err.strerror or err)


class LoopWatchdog:
    """Feeds systemd's watchdog from the heartbeats of the loops that serve, and from nothing else.

    One WATCHDOG=1 is sent when every named loop has beaten since the last one, at most four times an interval. A loop
    that hangs therefore starves the watchdog even while the others go on.

    Args:
        notifier: where to send.
        interval_s: WATCHDOG_USEC in seconds; None: nobody watches, beats cost nothing.
        loops: names of the loops that must all be alive.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        notifier: Notifier,
        interval_s: float | None,
        loops: tuple[str, ...] = ("serving",),
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._notifier, self._clock, self._loops = notifier, clock, frozenset(loops)
        self._pause_s = interval_s / _FEEDS_PER_INTERVAL if interval_s else None
        self._seen: set[str] = set()
        self._fed = float("-inf")

    @property
    def pause_s(self) -> float | None:
        """Longest a loop may idle between two beats; None if nobody watches."""
        return self._pause_s

    def beat(self, loop: str = "serving") -> None:
        """Say that a loop is alive. Cheap; safe from any thread (a race costs at most one spare datagram)."""
        if self._pause_s is None:
            return
        self._seen.add(loop)
        now = self._clock()
        if now - self._fed >= self._pause_s and self._loops <= self._seen:
            self._seen = set()
            self._fed = now
            self._notifier.watchdog()

    def attach(self, heartbeat: Heartbeat, loop: str = "serving") -> None:
        """Listen to a loop's heartbeat."""
        heartbeat.listeners.append(lambda: self.beat(loop))


def watchdog_interval_s(env: MutableMapping[str, str]) -> float | None:
    """Take WATCHDOG_USEC and WATCHDOG_PID out of the environment; None if no watchdog waits for this process.

    Raises:
        ConfigError: the interval is not a positive number.
    """
    text, pid = env.pop("WATCHDOG_USEC", ""), env.pop("WATCHDOG_PID", "")
    if not text or (pid and pid != str(os.getpid())):
        return None
    if not text.isdigit() or int(text) == 0:
        raise ConfigError(f"WATCHDOG_USEC: expected microseconds, got {text!r}. Set WatchdogSec= in the unit.")
    return int(text) / 1e6


def inherited_sockets(env: MutableMapping[str, str]) -> list[socket.socket]:
    """Take over the listening sockets systemd passed (LISTEN_FDS), [] if there are none for this process.

    Raises:
        ConfigError: a descriptor is not a listening stream socket.
    """
    count, pid = env.pop("LISTEN_FDS", ""), env.pop("LISTEN_PID", "")
    names = env.pop("LISTEN_FDNAMES", "").split(":")
    if not count or pid != str(os.getpid()):
        return []
    if not count.isdigit():
        raise ConfigError(f"LISTEN_FDS: expected a number, got {count!r}. Start the service through its .socket unit.")
    found: list[socket.socket] = []
    for index in range(int(count)):
        name = names[index] if index < len(names) and names[index] else f"descriptor {_FIRST_FD + index}"
        found.append(_listening_socket(_FIRST_FD + index, name))
    return found


def _listening_socket(fd: int, name: str) -> socket.socket:
    os.set_inheritable(fd, False)
    where = f"socket activation: {name}"
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise ConfigError(f"{where}: expected a socket, got something else. Use ListenStream= in the .socket unit.")
    taken = socket.socket(fileno=fd)
    is_stream = taken.type == socket.SOCK_STREAM and taken.family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
    if not is_stream or not taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        taken.detach()
        raise ConfigError(f"{where}: expected a listening stream socket. Use ListenStream= with Accept=no.")
    taken.setblocking(False)
    return taken


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_MAX_STATUS]
