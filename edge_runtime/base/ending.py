"""How a command's process ends: interrupts, closed pipes and full drives become a line and an exit code.

Imports next to nothing, as it is part of every start.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

INTERRUPTED = 130
"""Exit code after SIGINT, as shells have it."""


def exit_code(program: str, command: Callable[[], int], if_interrupted: str = "interrupted") -> int:
    """Run a command and return its exit code; what no command can prevent becomes a line and a code.

    Args:
        program: begins the line.
        command: returns its own code.
        if_interrupted: said at SIGINT.
    """
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    except KeyboardInterrupt:
        sys.stderr.write(f"{if_interrupted}\n")
        return INTERRUPTED
    except BrokenPipeError:
        # whoever read our output has gone; stop quietly, and keep the interpreter from failing at its last flush
        for stream in (sys.stdout, sys.stderr):
            _silence_if_broken(stream)
        return 1
    except OSError as err:
        _silence_if_broken(sys.stdout)
        sys.stderr.write(f"{program}: {err.filename or 'output'}: {err.strerror or err}.\n")
        return 1


def _silence_if_broken(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), stream.fileno())
