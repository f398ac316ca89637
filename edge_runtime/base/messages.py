"""Messages over a stream socket: eight bytes of length, then the bytes."""

from __future__ import annotations

import socket
from time import monotonic

from edge_runtime.base.sizes import MIB

MAX_MESSAGE_BYTES = 64 * MIB
_LENGTH = 8


def send(connection: socket.socket, data: bytes) -> None:
    """Send a message.

    Raises:
        OSError: the other side has gone.
    """
    connection.sendall(len(data).to_bytes(_LENGTH, "little") + data)


def receive(connection: socket.socket, deadline: float | None = None) -> bytes:
    """Wait for a message, until `deadline` in monotonic seconds if there is one.

    Raises:
        EOFError: the other side has gone.
        OSError: it did not come in time.
        ValueError: it is too long.
    """
    size = int.from_bytes(_receive_exactly(connection, _LENGTH, deadline), "little")
    if size > MAX_MESSAGE_BYTES:
        raise ValueError("a message without end")
    return _receive_exactly(connection, size, deadline)


def _receive_exactly(connection: socket.socket, size: int, deadline: float | None) -> bytes:
    data = bytearray()
    while len(data) < size:
        if deadline is not None:
            connection.settimeout(max(deadline - monotonic(), 0.001))
        part = connection.recv(min(size - len(data), MIB))
        if not part:
            raise EOFError
        data += part
    return bytes(data)
