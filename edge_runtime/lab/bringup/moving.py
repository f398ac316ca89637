"""Whether the processes of a step still do something: they compute, use the drive, or print."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_LEAST_CPU_SHARE = 0.02
"""Of the time. Timers and a power meter that is read ten times a second take less."""
_LEAST_DRIVE_BYTES = 1 << 20
_SESSION, _CPU = 3, slice(11, 15)
"""Fields of /proc/PID/stat behind the name: the session; time in and for it, and for children that have ended."""


@dataclass(frozen=True)
class Signs:
    """What the processes of a session have done so far.

    Attributes:
        cpu_s: seconds of processors.
        drive_bytes: read and written, without the page cache's.
        printed: bytes.
    """

    cpu_s: float
    drive_bytes: int
    printed: int

    def has_moved_since(self, before: Signs, still_s: float) -> bool:
        """Whether that is more than what idle processes do in so long."""
        return (
            abs(self.cpu_s - before.cpu_s) >= _LEAST_CPU_SHARE * still_s
            or abs(self.drive_bytes - before.drive_bytes) >= _LEAST_DRIVE_BYTES
            or self.printed != before.printed
        )


class Movement:
    """Watches the processes of a session.

    Args:
        session: the process that leads it.
        printed: returns the bytes they have printed.
        still_s: what is less than idle processes do in so long is no movement.
        proc: where processes are; tests pass a fake tree.
        clock: says the seconds since some moment.
    """

    def __init__(
        self, session: int, printed: Callable[[], int], still_s: float, proc: Path = Path("/proc"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._session, self._printed, self._still_s, self._proc = session, printed, still_s, proc
        self._clock = clock
        self._seen, self._when = self._look(), clock()

    def is_still(self) -> bool:
        """Look again: whether nothing has moved for that long."""
        now = self._look()
        if now.has_moved_since(self._seen, self._still_s):
            self._seen, self._when = now, self._clock()
        return self._clock() - self._when >= self._still_s

    def _look(self) -> Signs:
        ticks, drive = 0, 0
        for process, fields in _processes(self._proc):
            if int(fields[_SESSION]) == self._session:
                ticks += sum(map(int, fields[_CPU]))
                drive += _drive_bytes(process / "io")
        return Signs(ticks / os.sysconf("SC_CLK_TCK"), drive, self._printed())


def _processes(proc: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each process and the fields of its stat behind the name, which may hold anything."""
    for entry in proc.iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended meanwhile
                yield entry, (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()


def _drive_bytes(path: Path) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:  # ended, or of another user
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("read_bytes:", "write_bytes:")))
