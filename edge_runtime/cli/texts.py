"""Texts run token by token, as `eval` and `trace` do: reading them, and a progress bar while they run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from edge_runtime import Engine
    from edge_runtime.engine.tokenizer import Tokenizer

Item = TypeVar("Item")


def read_tokens(engine: Engine, path: str, limit: int) -> list[int]:
    """Return the first `limit` tokens of a text file.

    Raises:
        RequestError: it cannot be read, or has fewer than two tokens.
    """
    from edge_runtime.base.errors import RequestError

    ids = read_text_tokens(engine.tokenizer, path, limit)
    if len(ids) < 2:
        raise RequestError(f"text: {path}: expected at least 2 tokens, got {len(ids)}.")
    return ids


def read_text_tokens(tokenizer: Tokenizer, path: str, limit: int, where: str = "text") -> list[int]:
    """Return the first `limit` tokens of a text file, or all if it has fewer; errors name the option `where`.

    Raises:
        RequestError: it cannot be read.
    """
    from edge_runtime.base.errors import RequestError

    try:
        with open(path, encoding="utf-8") as file:
            # a token is at least one character of text in every tokenizer we know: never read a huge file whole
            text = file.read(64 * max(limit, 2))
    except (OSError, UnicodeDecodeError) as err:
        raise RequestError(f"{where}: cannot read {path}: {err}.") from err
    return tokenizer.encode(text)[:limit]


def progress(steps: Iterable[Item], what: str, total: int) -> Iterable[Item]:
    """Show a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    return track(steps, what, total=total, console=Console(stderr=True), disable=not sys.stderr.isatty())


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal; the value is called with how much more is done."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def transfer_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show bytes on a terminal, elsewhere a line every tenth; the value is called with bytes more and in all."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    rates = (TransferSpeedColumn(), TimeRemainingColumn())
    is_terminal = sys.stderr.isatty()
    with Progress(*columns, *rates, console=Console(stderr=True), disable=not is_terminal, transient=True) as bar:
        task, done, tenths = bar.add_task(what, total=None), 0, 0

        def show(more: int, total: int) -> None:
            nonlocal done, tenths
            done += more
            bar.update(task, completed=done, total=total)
            if not is_terminal and total and 10 * done // total > tenths:
                tenths = 10 * done // total
                print(f"{what}: {10 * tenths} %", file=sys.stderr, flush=True)

        yield show
