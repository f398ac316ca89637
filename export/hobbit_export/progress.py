"""What the user sees while an export runs: a bar on a terminal, a line a step elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from edge_runtime.base.sizes import format_size

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress:
    """Counts bytes of experts read from the checkpoint. Use as a context manager."""

    def __init__(self, total_bytes: int, num_steps: int, *, quiet: bool = False) -> None:
        self._total = total_bytes
        self._steps = num_steps
        self._quiet = quiet
        self._left_bytes = total_bytes
        self._done_steps = 0
        self._step_bytes = 0
        self._step_started = time.monotonic()
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Progress:
        """Show the bar on a terminal."""
        if not self._quiet and sys.stderr.isatty():
            from rich import progress as rich_progress
            from rich.console import Console

            self._bar = rich_progress.Progress(
                rich_progress.TextColumn("{task.description}"),
                rich_progress.BarColumn(),
                rich_progress.DownloadColumn(binary_units=True),
                rich_progress.TransferSpeedColumn(),
                rich_progress.TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("export", total=self._total)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar."""
        if self._bar:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """Count bytes read from the checkpoint."""
        self._step_bytes += count
        self._left_bytes -= count
        if self._bar and self._task is not None:
            self._bar.update(self._task, advance=count)

    def advance_elsewhere(self, count: int) -> None:
        """Count bytes that other machines read; fewer, if one of them died over a step."""
        self._left_bytes -= count
        if self._bar and self._task is not None:
            self._bar.update(self._task, advance=count)

    def begin(self, step: str) -> None:
        """Name the step that runs."""
        self._step_bytes, self._step_started = 0, time.monotonic()
        if self._bar and self._task is not None:
            self._bar.update(self._task, description=step)

    @contextmanager
    def share(self, step: str) -> Iterator[Callable[[float], None]]:
        """Show a bar of its own for a step measured by the share done, 0 to 1; elsewhere a line every tenth."""
        task = self._bar.add_task(step, total=1) if self._bar else None
        tenths = 0

        def show(done: float) -> None:
            nonlocal tenths
            if self._bar and task is not None:
                self._bar.update(task, completed=done)
            elif int(10 * done) > tenths and not self._quiet:
                tenths = int(10 * done)
                sys.stderr.write(f"{step}: {10 * tenths} %\n")
                sys.stderr.flush()

        yield show

    def end(self, step: str) -> None:
        """Report a finished step."""
        self._say(step, self._pace())

    def done_elsewhere(self, step: str, seconds: float, node: str) -> None:
        """Report a step that another machine has finished; its bytes were counted by `advance_elsewhere`."""
        self._say(step, f"{seconds:.1f} s on {node}")

    def note(self, text: str) -> None:
        """Say something between the lines of steps."""
        if self._bar:
            self._bar.console.print(text)
        elif not self._quiet:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    def expect(self, steps: int) -> None:
        """Count more steps than were known at the beginning."""
        self._steps += steps

    def skip(self, step: str, num_bytes: int) -> None:
        """Report a step an earlier run has finished, and the bytes it had to read."""
        self._left_bytes -= num_bytes
        if self._bar and self._task is not None:
            self._bar.update(self._task, advance=num_bytes)
        self._say(step, "already done")

    def _pace(self) -> str:
        seconds = time.monotonic() - self._step_started
        if not self._step_bytes:
            return f"{seconds:.1f} s"
        rate = self._step_bytes / max(seconds, 1e-3)
        left = f", {self._left_bytes / rate:.0f} s left" if self._left_bytes > 0 else ""
        return f"{seconds:.1f} s, {format_size(self._step_bytes)} read at {format_size(rate)}/s{left}"

    def _say(self, step: str, what: str) -> None:
        self._done_steps += 1
        if not self._quiet and not self._bar:
            sys.stderr.write(f"[{self._done_steps}/{self._steps}] {step}: {what}\n")
            sys.stderr.flush()
