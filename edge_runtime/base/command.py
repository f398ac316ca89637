"""What both commands share: help with defaults, `--version`, and how a process ends."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

INTERRUPTED = 130
"""Exit code after SIGINT, as shells have it."""


class DefaultsFormatter(argparse.HelpFormatter):
    """Help that ends with a flag's default, unless it has none or its help names it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return described(action)


def described(action: argparse.Action) -> str | None:
    """Return a flag's help with its default."""
    text, default = action.help, action.default
    if not text or default is None or isinstance(default, bool) or default in ([], argparse.SUPPRESS):
        return text
    shown = f"{default:g}" if isinstance(default, float) else str(default).replace("%", "%%")
    return text if "(default" in text else f"{text} (default: {shown})"


class VersionAction(argparse.Action):
    """`--version`: looks the version up only when it is asked for."""

    def __init__(self, option_strings: list[str], dest: str, **rest: Any) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, **rest)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print it and exit."""
        from importlib.metadata import version

        # the program's name alone, also where a verb follows it
        sys.stdout.write(f"{parser.prog.split()[0]} {version('hobbit-edge')}\n")
        parser.exit()


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
