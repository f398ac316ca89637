"""Control groups of this process, version 1 and 2: where they are, and what those of memory say."""

from __future__ import annotations

import re
from pathlib import Path

from edge_runtime.base.kept_files import Read, read_file
from edge_runtime.base.sizes import MIB

_UNLIMITED = 1 << 60
"""cgroup v1 writes 'no limit' as a number just below 2^63."""
_SHARE, _LEAST = 32, 16 * MIB
_STATED = re.compile(rb"^(total_)?(\w+) (\d+)$", re.MULTILINE)
_FILE_PAGES = (b"active_file", b"inactive_file")
_PROCESSES_PAGES = (b"anon", b"file", b"rss", b"cache")
"""Pages of processes and of files, shared memory among them: by the names of version 2, and of version 1."""
_KILLS = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)


class MemoryGroup:
    """A cgroup that counts memory.

    Args:
        path: its folder.
        read: reads its files.
    """

    def __init__(self, path: Path, read: Read = read_file) -> None:
        self.path, self._read = path, read
        self._limits = [path / name for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
        self._used = [path / name for name in ("memory.current", "memory.usage_in_bytes")]
        self._stat, self.pressure = path / "memory.stat", path / "memory.pressure"
        self._events = [path / name for name in ("memory.events", "memory.oom_control")]

    def limit_bytes(self) -> int | None:
        """Return the lowest of its limits; None without one."""
        return min((limit for limit in self._numbers(self._limits) if limit < _UNLIMITED), default=None)

    def used_bytes(self) -> int:
        """Return what is charged to it, pages of files included."""
        return next((used for used in self._numbers(self._used) if used), 0)

    def _stated(self) -> dict[bytes, int]:
        """Return what is charged, by kind. Dear: the kernel adds it up over processors and children."""
        found = _STATED.findall(self._read(self._stat))
        with_children = [each for each in found if each[0]]
        return {name: int(size) for _, name, size in with_children or found}

    def left_bytes(self, limit: int, *, driver_bytes: int = 0, enough: int | None = None) -> int:
        """Return what a limit leaves: less what is charged and cannot be reclaimed.

        All pages of files count as reclaimable: libraries shared with others may be charged here or elsewhere, and the
        plan counts those this process maps. Some drivers have their memory charged and others do not. So as much counts
        as is charged and belongs to no process: the kernel's.

        Args:
            limit: of `limit_bytes`.
            driver_bytes: a driver's memory that the asking process holds, which counts as left.
            enough: where so much is left, whatever can be reclaimed, return that without finding out how much more.
        """
        used = self.used_bytes()
        if enough is not None and limit - used >= enough:
            return limit - used
        stated = self._stated()
        files, processes = (sum(stated.get(name, 0) for name in names) for names in (_FILE_PAGES, _PROCESSES_PAGES))
        driver = min(driver_bytes, max(0, used - processes)) if processes else 0
        return max(0, limit - max(0, used - files - driver))

    def kills(self) -> int:
        """Return how many of its processes the kernel killed for want of memory."""
        return sum(int(found) for path in self._events for found in _KILLS.findall(self._read(path)))

    def _numbers(self, paths: list[Path]) -> list[int]:
        words = [self._read(path).split() for path in paths]
        return [int(each[0]) for each in words if each and each[0].isdigit()]


def kept_in_group(limit: int) -> int:
    """Return what of a cgroup's limit is left to whatever else runs in it and to the kernel's own pages."""
    return max(_LEAST, limit // _SHARE)


def groups_of(root: Path, controller: str, read: Read = read_file) -> list[Path]:
    """Return this process's cgroup folder for a controller and every parent up to the mount.

    Args:
        root: where /proc and /sys are; tests pass a fake tree.
        controller: such as 'memory'.
        read: reads /proc/self/cgroup.
    """
    mounts: list[tuple[Path, str]] = []
    for line in read(membership(root)).decode(errors="replace").splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        if controller in parts[1].split(","):
            mounts.append((root / "sys/fs/cgroup" / parts[1], parts[2]))
            mounts.append((root / "sys/fs/cgroup" / controller, parts[2]))
        elif parts[1] == "":
            mounts.append((root / "sys/fs/cgroup", parts[2]))
    found: list[Path] = []
    for mount, path in mounts:
        # in a container the path may be the host's and absent here; the mount itself is then our group
        group = mount / path.strip("/")
        while group != mount and mount in group.parents:
            found.append(group)
            group = group.parent
        found.append(mount)
    return [group for group in dict.fromkeys(found) if group.is_dir()]


def membership(root: Path) -> Path:
    """Return the file that says which cgroups this process is in."""
    return root / "proc/self/cgroup"
