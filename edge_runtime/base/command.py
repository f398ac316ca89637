"""What the parsers of both commands share: help with defaults that reaches its reader or fails, and `--version`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


class Parser(argparse.ArgumentParser):
    """A parser whose help raises where it cannot be written; argparse loses the error, and ends with 0."""

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Write the help to a file, stdout if none is named.

        Raises:
            OSError: it cannot be written.
        """
        (sys.stdout if file is None else file).write(self.format_help())


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
