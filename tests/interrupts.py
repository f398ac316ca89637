"""Ctrl-C at a chosen line: what a test runs is interrupted there, and it learns where that was."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Interrupt:
    """Raises KeyboardInterrupt at the n-th line run, or return made, of chosen files in this thread.

    Args:
        at: n; nothing is raised at -1, lines are counted only.
        is_meant: whether the lines of a file count, by its name.
    """

    def __init__(self, at: int, is_meant: Callable[[str], bool]) -> None:
        self.at, self.count, self.where, self._is_meant = at, 0, "", is_meant

    def __call__(self, frame: Any, event: str, arg: Any) -> Any:
        """Trace a call, as `sys.settrace` asks."""
        return self._line if self._is_meant(frame.f_code.co_filename) else None

    def _line(self, frame: Any, event: str, arg: Any) -> Any:
        if event in ("line", "return"):
            self.count += 1
            if self.count == self.at:
                sys.settrace(None)
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
                raise KeyboardInterrupt
        return self._line


def interrupted(action: Callable[[], object], at: int, is_meant: Callable[[str], bool]) -> Interrupt:
    """Run something, interrupted at the n-th line of the files meant."""
    tracer, before = Interrupt(at, is_meant), sys.gettrace()
    sys.settrace(tracer)
    try:
        action()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return tracer
