"""The terminal of a chat: silent while the model answers, and shown only text that does not drive it."""

from __future__ import annotations

import os
import signal
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_PASTE_MARKS_ON, _PASTE_MARKS_OFF = "\x1b[?2004h", "\x1b[?2004l"
# all control characters but tab and line break: a model's text must not move the cursor or change the terminal
_HARMLESS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)}


class Terminal:
    """What a chat reads from and writes to.

    Args:
        stdin, stdout: of the process.
        environment: says what the terminal can do.

    Attributes:
        is_interactive: a person types and reads.
        shows_answers: stdout is a terminal.
        is_styled: it may be sent escape sequences for looks.
    """

    def __init__(self, stdin: TextIO, stdout: TextIO, environment: dict[str, str]) -> None:
        self.shows_answers = stdout.isatty()
        self.is_interactive = stdin.isatty() and self.shows_answers
        is_dumb = environment.get("TERM", "dumb") in ("dumb", "unknown")
        self.is_styled = self.shows_answers and not is_dumb and not environment.get("NO_COLOR")
        self._marks_pastes = self.is_interactive and not is_dumb
        self._stdin, self._stdout = stdin, stdout
        self._loud: list[Any] | None = None

    @staticmethod
    def of_process() -> Terminal:
        """Return that of this process."""
        return Terminal(sys.stdin, sys.stdout, dict(os.environ))

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Show nothing that is typed: it waits for the next prompt, whole, and does not end up in an answer.

        The kernel's line editing is off as well, as it cuts lines at 4,095 bytes. Pastes are marked as such. SIGTERM
        ends the chat in order, or the terminal would stay like that.
        """
        if not self.is_interactive:
            yield
            return
        descriptor = self._stdin.fileno()
        self._loud = termios.tcgetattr(descriptor)
        previous = signal.signal(signal.SIGTERM, _leave)
        try:
            self._silence()
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)
            self._mark_pastes(_PASTE_MARKS_OFF)
            termios.tcsetattr(descriptor, termios.TCSANOW, self._loud)
            self._loud = None

    def _silence(self) -> None:
        assert self._loud is not None
        changed = list(self._loud)
        changed[3] &= ~(termios.ECHO | termios.ICANON)
        termios.tcsetattr(self._stdin.fileno(), termios.TCSANOW, changed)
        self._mark_pastes(_PASTE_MARKS_ON)

    @contextmanager
    def loud(self) -> Iterator[None]:
        """Let the terminal edit lines as it did before `quiet`, for a reader that has no editor of its own."""
        if self._loud is None:
            yield
            return
        self._mark_pastes(_PASTE_MARKS_OFF)
        termios.tcsetattr(self._stdin.fileno(), termios.TCSANOW, self._loud)
        try:
            yield
        finally:
            self._silence()

    def after_prompt(self) -> None:
        """Mark pastes again: an editor stops that when its prompt is over."""
        if self._loud is not None:
            self._mark_pastes(_PASTE_MARKS_ON)

    def _mark_pastes(self, sequence: str) -> None:
        if self._marks_pastes:
            self._stdout.write(sequence)
            self._stdout.flush()

    def write(self, text: str, *, is_dim: bool = False) -> None:
        """Write a model's text at once."""
        if self.shows_answers:
            text = text.translate(_HARMLESS)
        if is_dim and self.is_styled and text:
            text = f"{_DIM}{text}{_PLAIN}"
        self._stdout.write(text)
        self._stdout.flush()


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)
