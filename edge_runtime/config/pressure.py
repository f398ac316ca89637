"""Memory pressure: what this process may still have, and how long tasks stalled for want of memory (PSI)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.base.sizes import MIB
from edge_runtime.config.limits import SystemLimits, pressure_files, read_limits
from edge_runtime.telemetry.process import anonymous_bytes

_TOTAL = re.compile(r"^some .*\btotal=(\d+)", re.MULTILINE)
_GROUP_SHARE, _GROUP_LEAST = 32, 16 * MIB
"""Of a cgroup's limit so much is left to whatever else runs in it and to the kernel's own pages."""


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


def read_pressure(
    *, reserve_bytes: int, requested: int | None, own_bytes: int | None = None, root: Path = Path("/")
) -> Pressure:
    """Read it.

    Args:
        reserve_bytes: left to the rest of the machine.
        requested: --memory, the most there can be; None for auto.
        own_bytes: anonymous memory of this process, instead of reading it.
        root: where /proc and /sys are; tests pass a fake tree.

    Raises:
        DeviceError: /proc/meminfo cannot be read.
    """
    limits = read_limits(root)
    own = anonymous_bytes() if own_bytes is None else own_bytes
    return Pressure(allowed_bytes(limits, own, reserve_bytes, requested), _stalled(root))


def allowed_bytes(limits: SystemLimits, own_bytes: int, reserve_bytes: int, requested: int | None) -> int:
    """Return the least of what the machine, the tightest cgroup and --memory allow; not below 0."""
    options = [limits.available_bytes + own_bytes - reserve_bytes]
    if limits.cgroup_free_bytes is not None:
        limit = limits.cgroup_limit_bytes or 0
        options.append(limits.cgroup_free_bytes + own_bytes - max(_GROUP_LEAST, limit // _GROUP_SHARE))
    if requested is not None:
        options.append(requested)
    return max(0, min(options))


def _stalled(root: Path) -> int | None:
    """Of the process's own cgroup where that is counted, else of the machine."""
    for path in pressure_files(root):
        try:
            found = _TOTAL.search(path.read_text())
        except OSError:  # the kernel has it, but switched off
            continue
        if found:
            return int(found[1])
    return None
