"""Log lines written by a thread of their own: a pipe that nobody reads holds up nothing but that thread.

Lines wait in a bounded queue. What does not fit is dropped and counted, and the count is written once there is room.
Warnings that repeat are written a few times a period, then counted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable
from time import monotonic
from typing import TextIO

MAX_WAITING = 1024
_BURST, _PERIOD_S, _MAX_KINDS = 10, 10.0, 256
_END_S = 2.0


class QueuedHandler(logging.Handler):
    """Formats records where they are logged, and writes them in a thread.

    Args:
        stream: where lines go.
        max_waiting: lines that may wait.
        clock: in seconds, for the limit of repetitions.
    """

    def __init__(self, stream: TextIO, max_waiting: int = MAX_WAITING, clock: Callable[[], float] = monotonic) -> None:
        super().__init__()
        self._write = _writer(stream)
        self._lines: queue.Queue[str | None] = queue.Queue(max_waiting)
        self._repeats = _Repeats(clock)
        self.dropped = 0
        """Lines that found no room, of all time."""
        self._told = 0
        self._is_idle = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hobbit-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record's line; never waits."""
        left_out = self._repeats.left_out(record)
        if left_out is None:
            return
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - a record that cannot be formatted must not end a request
            line = f"{record.name}: a log line that cannot be formatted"
        if left_out:
            line += f" ({left_out} more like this were left out)"
        self._put(line)

    def close(self) -> None:
        """Wait a moment for what is queued, then give up on whoever does not read."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=_END_S)
        self._thread.join(_END_S)
        super().close()

    def _put(self, line: str) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.dropped += 1  # under the handler's lock

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            with contextlib.suppress(OSError, ValueError):  # the reader has gone, or the disk is full
                self._write(line + "\n")
                if self.dropped > self._told:
                    count, self._told = self.dropped - self._told, self.dropped
                    self._write(self._notice(count) + "\n")

    def _notice(self, count: int) -> str:
        text = f"{count} log lines were dropped: they came faster than they were read"
        return self.format(logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None))


class _Repeats:
    """How often a warning was written lately."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str, int, str], tuple[float, int]] = {}

    def left_out(self, record: logging.LogRecord) -> int | None:
        """Return how many like this were left out before it; None: leave this one out too."""
        if record.levelno < logging.WARNING:
            return 0
        kind, now = (record.name, record.levelno, str(record.msg)[:200]), self._clock()
        since, count = self._kinds.get(kind, (now, 0))
        left_out = 0
        if now - since >= _PERIOD_S:
            left_out, since, count = max(0, count - _BURST), now, 0
        if kind not in self._kinds and len(self._kinds) >= _MAX_KINDS:
            self._kinds.clear()
        self._kinds[kind] = since, count + 1
        return left_out if count < _BURST else None


def _writer(stream: TextIO) -> Callable[[str], object]:
    """Write to the descriptor: a buffered stream is locked while it waits, and the interpreter's end waits for it."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return lambda text: (stream.write(text), stream.flush())
    return lambda text: _write_all(descriptor, text.encode("utf-8", "backslashreplace"))


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
