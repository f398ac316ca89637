"""Where the messages of a chat come from: an editor on a terminal, a plain line, or a pipe."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import TextIO

from edge_runtime.base.errors import RequestError
from edge_runtime.cli.chat.reader import PROMPT, Reader, checked
from edge_runtime.cli.chat.terminal import Terminal

_BLOCK = '"""'


def open_reader(terminal: Terminal, *, keeps_history: bool) -> Reader:
    """Return what fits the terminal; without prompt_toolkit a plain reader, and a line that says so."""
    if not terminal.is_interactive:
        return StreamReader(sys.stdin, sys.stderr if sys.stdin.isatty() else None)
    try:
        from edge_runtime.cli.chat.editor import Editor
    except ModuleNotFoundError:
        from edge_runtime.base.extras import pip_install

        sys.stderr.write(
            "Plain lines: prompt_toolkit is missing, so there is no editor and no history. "
            f"{pip_install('prompt_toolkit')}\n"
        )
        return LineReader(terminal)
    from edge_runtime.cli.chat.history import HistoryFile

    return Editor(terminal, HistoryFile.of_user() if keeps_history else HistoryFile(None))


class StreamReader:
    '''A message a line; lines between two of """ are one.

    Args:
        stream: what is read.
        prompt_to: where the prompt is written; None for none.
    '''

    def __init__(self, stream: TextIO, prompt_to: TextIO | None = None) -> None:
        if isinstance(stream, io.TextIOWrapper):  # bytes that are no text must cost one message, not those after it
            stream.reconfigure(errors="surrogateescape")
        self._stream, self._prompt_to = stream, prompt_to

    def read(self) -> str | None:
        """See `Reader.read`."""
        if self._prompt_to is not None:
            self._prompt_to.write(PROMPT)
            self._prompt_to.flush()
        line = self._stream.readline()
        if not line:
            return None
        text = line.strip()
        return checked(self._block(text[len(_BLOCK) :]) if text.startswith(_BLOCK) else text)

    def _block(self, first: str) -> str:
        lines = [first]
        while _BLOCK not in lines[-1] and (line := self._stream.readline()):
            lines.append(line.rstrip("\n"))
        return "\n".join(lines).partition(_BLOCK)[0].strip("\n")


class LineReader:
    """A line of a terminal, with what editing the terminal or GNU readline has.

    Args:
        terminal: is let edit meanwhile.
    """

    def __init__(self, terminal: Terminal) -> None:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - `input` uses it once it is there
        self._terminal = terminal

    def read(self) -> str | None:
        """See `Reader.read`."""
        try:
            with self._terminal.loud():
                return checked(input(PROMPT).strip())
        except EOFError:
            sys.stdout.write("\n")
            return None
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            raise
        except UnicodeDecodeError as err:
            raise RequestError(f"message: expected text in the terminal's encoding, got {err}. Not taken.") from err
