"""Where the service listens: TCP, a unix socket, or what systemd passed; never beyond this machine without a key."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.base.errors import ConfigError

_MAX_KEY_FILE_BYTES = 64 << 10
_MIN_KEY_BYTES = 16
BACKLOG = 512


@dataclass(frozen=True)
class Listeners:
    """Listening sockets.

    Attributes:
        sockets: bound and listening.
        local_only: whether none can be reached from another machine.
        urls: how to reach them, for people.
        unix_path: socket file to remove at the end.
    """

    sockets: list[socket.socket]
    local_only: bool
    urls: list[str]
    unix_path: Path | None = None

    def close(self) -> None:
        """Stop listening."""
        for sock in self.sockets:
            sock.close()
        if self.unix_path is not None:
            self.unix_path.unlink(missing_ok=True)


def read_api_keys(path: str | os.PathLike[str] | None) -> tuple[str, ...]:
    """Return the keys in a file, one a line, none without a file. Empty lines and those that start with # do not count.

    Raises:
        ConfigError: the file cannot be read, or a key in it is not usable.
    """
    if path is None:
        return ()
    try:
        with open(path, "rb") as file:
            lines = [line.strip() for line in file.read(_MAX_KEY_FILE_BYTES).splitlines()]
    except OSError as err:
        raise ConfigError(f"api-key-file: cannot read {path}: {err.strerror}.") from err
    keys = [line for line in lines if line and not line.startswith(b"#")]
    for key in keys or [b""]:
        if len(key) < _MIN_KEY_BYTES or any(c <= 32 or c >= 127 for c in key):
            raise ConfigError(
                f"api-key-file: {path}: expected keys of {_MIN_KEY_BYTES} or more ASCII characters without spaces, "
                "one a line. Make one: openssl rand -hex 32"
            )
    return tuple(key.decode() for key in keys)


def listen_tcp(host: str, port: int, *, has_key: bool) -> Listeners:
    """Listen on a TCP port; port 0 takes a free one.

    Raises:
        ConfigError: the address is wrong, in use, or reachable from outside without a key.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as err:
        raise ConfigError(f"host: {host!r} is no address of this machine: {err}.") from err
    family, _, _, _, address = found[0]
    is_local = _is_loopback(str(address[0]))
    if not is_local and not has_key:
        raise _needs_key(f"host {host}")
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as err:
        sock.close()
        raise ConfigError(f"listen: cannot use {host}:{port}: {err.strerror}. Choose another --port.") from err
    sock.setblocking(False)
    bound = sock.getsockname()
    shown = f"[{bound[0]}]" if family == socket.AF_INET6 else bound[0]
    return Listeners([sock], is_local, [f"http://{shown}:{bound[1]}"])


def listen_unix(path: Path) -> Listeners:
    """Listen on a unix socket that owner and group may use.

    Raises:
        ConfigError: the path cannot be used, or another server listens there.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(str(path))
        os.chmod(path, 0o660)
        sock.listen(BACKLOG)
    except (OSError, ConfigError) as err:
        sock.close()
        if isinstance(err, ConfigError):
            raise
        raise ConfigError(f"socket: cannot use {path}: {err.strerror or err}.") from err
    sock.setblocking(False)
    return Listeners([sock], True, [f"unix:{path}"], path)


def adopt(sockets: list[socket.socket], *, has_key: bool) -> Listeners:
    """Take over sockets that listen already.

    Raises:
        ConfigError: one is reachable from outside without a key.
    """
    outside = [s for s in sockets if s.family != socket.AF_UNIX and not _is_loopback(str(s.getsockname()[0]))]
    if outside and not has_key:
        raise _needs_key(f"the socket unit's address {outside[0].getsockname()[0]}")
    return Listeners(sockets, not outside, [f"socket {s.getsockname()}" for s in sockets])


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _needs_key(what: str) -> ConfigError:
    return ConfigError(
        f"{what}: other machines could reach it, and no API key is set. "
        "Set --api-key-file (or HOBBIT_API_KEY_FILE), or listen on 127.0.0.1."
    )


def _remove_stale(path: Path) -> None:
    """Remove a socket file nobody listens on any more; anything else there is left alone."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ConfigError(f"socket: {path}: another server listens there. Stop it, or choose another path.")
