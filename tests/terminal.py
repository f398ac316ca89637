"""A program in a terminal, as a person has it: keys in, a screen out."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from patience import PATIENCE_S, until

pyte = pytest.importorskip("pyte", reason="pyte is not installed (extra: test); nothing was tested in a terminal")

CTRL_C, CTRL_D, CTRL_R, UP, ALT_ENTER = "\x03", "\x04", "\x12", "\x1b[A", "\x1b\r"
PASTE_BEGIN, PASTE_END = "\x1b[200~", "\x1b[201~"


class Terminal:
    """A running program and its screen.

    Attributes:
        pid: of the program.
        raw: everything it wrote, as it wrote it.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], *, rows: int, columns: int, cwd: Path) -> None:
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self.raw = b""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.execvpe(command[0], list(command), dict(env))
        self._set_size(rows, columns)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the other side has gone
            while data := os.read(self._fd, 1 << 16):
                with self._lock:
                    self.raw += data
                    self._stream.feed(data)

    def send(self, keys: str | bytes) -> None:
        """Type keys, as fast as the program takes them."""
        data = keys.encode() if isinstance(keys, str) else keys
        deadline = time.monotonic() + PATIENCE_S
        while data:
            assert time.monotonic() < deadline, f"{len(data)} bytes were never read"
            if select.select([], [self._fd], [], 0.1)[1]:
                data = data[os.write(self._fd, data[:1024]) :]

    def enter(self, text: str) -> None:
        """Type a line, see it, then press Enter: what comes in one burst is taken for a paste."""
        self.until_prompt()
        self.send(text)
        self.until(f"> {text}")
        self.send("\r")

    def paste(self, text: str) -> None:
        """Paste text as terminals do that mark it: line breaks become carriage returns."""
        self.send(PASTE_BEGIN + text.replace("\n", "\r") + PASTE_END)

    def text(self) -> str:
        """What the screen shows, without spaces at ends of lines."""
        with self._lock:
            return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def style_of(self, text: str) -> object:
        """The first cell of a text on the screen: its attributes."""
        with self._lock:
            for number, line in enumerate(self._screen.display):
                if text in line:
                    return self._screen.buffer[number][line.index(text)]
        raise AssertionError(f"{text!r} is not on the screen:\n{self.text()}")

    def until(self, text: str, *, times: int = 1) -> str:
        """Wait for a text on the screen; return the screen."""
        with contextlib.suppress(AssertionError):
            until(lambda: self.text().count(text) >= times or self._has_ended())
        shown = self.text()
        assert shown.count(text) >= times, f"waited for {text!r}, the screen shows:\n{shown}"
        return shown

    def until_prompt(self) -> str:
        """Wait until the last line is an empty prompt; return the screen."""
        until(
            lambda: self.text().endswith("\n>") or self.text() == ">" or self._has_ended(),
            self.text(),
        )
        assert not self._has_ended(), self.text()
        return self.text()

    def resize(self, rows: int, columns: int) -> None:
        """Change the window's size."""
        with self._lock:
            self._screen.resize(rows, columns)
        self._set_size(rows, columns)

    def _set_size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def is_echoing(self) -> bool:
        """Whether the terminal itself shows what is typed."""
        return bool(termios.tcgetattr(self._fd)[3] & termios.ECHO)

    def _has_ended(self) -> bool:
        return not self._reader.is_alive()

    def wait(self) -> int:
        """Wait for the end of the program; return its exit code, negative for a signal."""
        self._reader.join(PATIENCE_S)
        found, status = os.waitpid(self.pid, 0)
        assert found == self.pid
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """End the program if it still runs."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)


@contextmanager
def terminal(
    *command: str, cwd: Path, env: Mapping[str, str] | None = None, rows: int = 40, columns: int = 100
) -> Iterator[Terminal]:
    """Run a program in a terminal of its own."""
    surroundings = {**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8", **(env or {})}
    surroundings.pop("NO_COLOR", None) if not (env or {}).get("NO_COLOR") else None
    running = Terminal(command, surroundings, rows=rows, columns=columns, cwd=cwd)
    try:
        yield running
    finally:
        running.close()
