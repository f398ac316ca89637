"""How a command's process begins and ends: its three streams; interrupts, closed pipes and full drives become a code.

Imports next to nothing, as it is part of every start.
"""

from __future__ import annotations

import io
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
    open_streams()
    code = 1
    try:
        try:
            code = command()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        say(if_interrupted)
        return INTERRUPTED
    except BrokenPipeError:
        return code or 1  # whoever read our output has gone: nothing to say
    except OSError as err:
        say(f"{program}: {err.filename or 'output'}: {err.strerror or err}.")
        return code or 1
    else:
        return code
    finally:
        # the interpreter's own last flush must not fail
        for stream in (sys.stdout, sys.stderr):
            _silence_if_broken(stream)


def say(line: str) -> None:
    """Write a line to stderr. Where that fails the line is lost: it must not change how the command ends.

    A service manager restarts what ended with another code than bad settings have.
    """
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except OSError:
        _silence_if_broken(sys.stderr)


def open_streams() -> None:
    """Give a process that was started with closed standard streams (`<&-`) empty ones, lest a file takes their number.

    Text that a terminal cannot show is shown as `?`: it must not end an answer.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _silence_if_broken(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), stream.fileno())
