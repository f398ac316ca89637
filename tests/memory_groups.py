"""Memory cgroups of this machine, of version 1 or 2, for tests that have to be killed if they take too much."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


class MemoryGroup:
    """A fresh cgroup with a limit, without swap; skips the test where none can be made.

    Attributes:
        prefix: words before a command that run it inside.
    """

    def __init__(self, limit: int) -> None:
        self._is_v1 = (_V1 / "memory.limit_in_bytes").exists()
        self._group = (_V1 if self._is_v1 else _V2) / f"hobbit-share-{os.getpid()}"
        try:
            self._group.mkdir()
            (self._group / ("memory.limit_in_bytes" if self._is_v1 else "memory.max")).write_text(str(limit))
        except OSError as err:
            pytest.skip(f"NO MEMORY CGROUP: the limit of a real cgroup was not tested here ({err})")
        self.prefix = ["sh", "-c", f'echo $$ > {self._group}/cgroup.procs && exec "$@"', "sh"]

    def kills(self) -> int:
        """How often the kernel killed something in here."""
        text = (self._group / ("memory.oom_control" if self._is_v1 else "memory.events")).read_text()
        return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))

    def __enter__(self) -> MemoryGroup:
        return self

    def __exit__(self, *exc: object) -> None:
        self._group.rmdir()
