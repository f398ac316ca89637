"""Memory pressure: what this process may still have, and how long tasks stalled for want of memory (PSI)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.base.kept_files import KeptFiles
from edge_runtime.config.cgroups import MemoryGroup, kept_in_group, membership
from edge_runtime.config.limits import OwnMemory, SystemLimits, limits_of, memory_groups
from edge_runtime.telemetry.process import anonymous_pages_bytes, rss_bytes

_TOTAL = re.compile(rb"^some .*\btotal=(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Pressure:
    """Memory at one moment.

    Attributes:
        allowed_bytes: what the whole process may take: what it has, and what others leave. It does not change with what
            the process takes or returns itself.
        stalled_us: microseconds in which some task waited for memory, since boot; None where the kernel does not count.
    """

    allowed_bytes: int
    stalled_us: int | None = None


class PressureWatch:
    """Looks at memory again and again, at the least cost. For one thread.

    Files stay open. What can be reclaimed in a cgroup, which is most of the cost, is asked for only where the answer
    counts.

    Args:
        reserve_bytes: left to the rest of the machine.
        own_bytes: returns the anonymous memory of this process, instead of reading it.
        driver_bytes: returns what a driver holds for it beside that (`OwnMemory`).
        helper_bytes: returns the anonymous memory of its helper processes, as far as the plan counts it.
        root: where /proc and /sys are; tests pass a fake tree.
    """

    def __init__(
        self,
        *,
        reserve_bytes: int,
        own_bytes: Callable[[], int] | None = None,
        driver_bytes: Callable[[], int] = lambda: 0,
        helper_bytes: Callable[[], int] = lambda: 0,
        root: Path = Path("/"),
    ) -> None:
        self._reserve, self._own, self._root = reserve_bytes, own_bytes or self._anonymous_bytes, root
        self._driver_bytes, self._helper_bytes = driver_bytes, helper_bytes
        self._files = KeptFiles()
        self._membership, self._meminfo, self._statm, self._stalls = (
            membership(root), root / "proc/meminfo", root / "proc/self/statm", root / "proc/pressure/memory"
        )  # fmt: skip
        self._member_of = b""
        self._groups: list[MemoryGroup] = []

    def look(self, *, requested: int | None, enough: int | None = None) -> Pressure:
        """Look.

        Args:
            requested: --memory, the most there can be; None for auto.
            enough: say no more than this, if there is as much.

        Raises:
            DeviceError: /proc/meminfo cannot be read.
        """
        self._find_groups()
        own = OwnMemory(self._own() + self._helper_bytes(), self._driver_bytes())
        limits = limits_of(self._files.read(self._meminfo), self._groups, own, enough=enough)
        allowed = allowed_bytes(limits, self._reserve, requested)
        return Pressure(allowed if enough is None else min(allowed, enough), self._stalled())

    def close(self) -> None:
        """Close the files. Safe to call twice."""
        self._files.close()
        self._member_of = b""

    def _find_groups(self) -> None:
        """A process may be moved to other cgroups."""
        member_of = self._files.read(self._membership)
        if member_of != self._member_of:
            self._files.close()
            self._member_of = member_of
            self._groups = memory_groups(self._root, self._files.read)

    def _anonymous_bytes(self) -> int:
        return anonymous_pages_bytes(self._files.read(self._statm)) or rss_bytes()

    def _stalled(self) -> int | None:
        """Of the process's own cgroup where that is counted, else of the machine."""
        for path in (*(group.pressure for group in self._groups[:1]), self._stalls):
            found = _TOTAL.search(self._files.read(path))
            if found:
                return int(found[1])
        return None


def allowed_bytes(limits: SystemLimits, reserve_bytes: int, requested: int | None) -> int:
    """Return the least of what the machine, the tightest cgroup and --memory allow; not below 0."""
    options = [limits.available_bytes - reserve_bytes]
    if limits.cgroup_free_bytes is not None:
        options.append(limits.cgroup_free_bytes - kept_in_group(limits.cgroup_limit_bytes or 0))
    if requested is not None:
        options.append(requested)
    return max(0, min(options))
