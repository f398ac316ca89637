"""A memory cgroup for one process tree, version 1 or 2: caps anonymous memory and page cache together."""

from __future__ import annotations

import os
import time
from pathlib import Path

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")


class MemoryGroup:
    """A cgroup under `parent`; use as a context manager, it is removed at the end.

    Args:
        cap_bytes: most memory of everything inside; None: no cap, only counted.
        parent: where to make it; None finds the machine's memory controller.

    Raises:
        SystemExit: no memory controller, or no right to make a group.
    """

    def __init__(self, cap_bytes: int | None, parent: Path | None = None) -> None:
        parent = parent or (_V1 if (_V1 / "memory.limit_in_bytes").exists() else _V2)
        self.is_v1 = (parent / "memory.limit_in_bytes").exists()
        if not self.is_v1 and "memory" not in _read(parent / "cgroup.controllers").split():
            raise SystemExit(f"{parent}: no memory controller here. Name a cgroup that has one with --group-parent.")
        self.path = parent / f"hobbit-compare-{os.getpid()}"
        try:
            if not self.is_v1:
                (parent / "cgroup.subtree_control").write_text("+memory")
            self.path.mkdir(exist_ok=True)
            if cap_bytes is not None:
                (self.path / ("memory.limit_in_bytes" if self.is_v1 else "memory.max")).write_text(str(cap_bytes))
            if not self.is_v1 and (self.path / "memory.swap.max").exists():
                (self.path / "memory.swap.max").write_text("0")
        except OSError as err:
            raise SystemExit(
                f"{self.path}: cannot be made ({err.strerror}). Run as root, or name a delegated cgroup with "
                "--group-parent."
            ) from err

    def command(self, argv: list[str]) -> list[str]:
        """Return a command line that enters the group and becomes `argv`."""
        return ["sh", "-c", f'echo $$ > "{self.path}/cgroup.procs" && exec "$@"', "sh", *argv]

    @property
    def peak_bytes(self) -> int | None:
        """Most memory used at once, page cache included; None if this kernel does not say."""
        text = _read(self.path / ("memory.max_usage_in_bytes" if self.is_v1 else "memory.peak"))
        return int(text) if text.strip().isdigit() else None

    @property
    def oom_kills(self) -> int:
        """Processes killed for exceeding the cap."""
        text = _read(self.path / ("memory.oom_control" if self.is_v1 else "memory.events"))
        return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)

    def __enter__(self) -> MemoryGroup:
        return self

    def __exit__(self, *_: object) -> None:
        for _attempt in range(100):  # the kernel lets go a moment after the last process has
            try:
                self.path.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.05)
            else:
                return


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
