"""What this process may use: memory left by the system and its cgroups (version 1 and 2), and CPUs."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.base.errors import DeviceError
from edge_runtime.base.sizes import KIB, MIB, format_size

_PAGES_SHARE, _MOST_FOR_PAGES = 64, 64 * MIB
_UNLIMITED = 1 << 60
"""cgroup v1 writes 'no limit' as a number just below 2^63."""


@dataclass(frozen=True)
class SystemLimits:
    """Memory as the system reports it.

    Attributes:
        total_bytes: memory of the machine.
        available_bytes: MemAvailable: free memory plus what can be reclaimed without swapping.
        cgroup_free_bytes: least that is left in any enclosing cgroup (its limit, less use that cannot be reclaimed);
            None without a limit.
        cgroup_path: the cgroup that is tightest, for messages.
        cgroup_limit_bytes: lowest limit of any enclosing cgroup, whatever is in use.
    """

    total_bytes: int
    available_bytes: int
    cgroup_free_bytes: int | None = None
    cgroup_path: str = ""
    cgroup_limit_bytes: int | None = None


def read_limits(root: Path = Path("/")) -> SystemLimits:
    """Read the limits of this process.

    Args:
        root: where /proc and /sys are; tests pass a fake tree.

    Raises:
        DeviceError: /proc/meminfo cannot be read (not Linux).
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        fields = {name: int(rest.split()[0]) * KIB for name, rest in (line.split(":") for line in lines)}
        total, available = fields["MemTotal"], fields["MemAvailable"]
    except (OSError, ValueError, LookupError) as err:
        raise DeviceError(f"/proc/meminfo: cannot be read ({err}). This runtime needs Linux.") from err
    limited = [(limit, path) for path in _memory_groups(root) if (limit := _limit_of(path)) is not None]
    left, where = min(((_left_in(path, limit), str(path)) for limit, path in limited), default=(None, ""))
    lowest = min((limit for limit, _ in limited), default=None)
    return SystemLimits(total, available, left, where, lowest)


def available_cpus(root: Path = Path("/")) -> int:
    """CPUs this process may use: its affinity, cut to the CPU quota of its cgroups; at least 1."""
    cpus = float(len(os.sched_getaffinity(0)))
    for group in _groups(root, "cpu"):
        quota = _words(group / "cpu.max") or [*_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us")]
        if len(quota) == 2 and quota[0].isdigit() and int(quota[1]) > 0:
            cpus = min(cpus, int(quota[0]) / int(quota[1]))
    return max(1, math.floor(cpus))


def pressure_files(root: Path = Path("/")) -> list[Path]:
    """Return where the kernel may say how long tasks waited for memory, the nearest cgroup first."""
    groups = [group / "memory.pressure" for group in _memory_groups(root)]
    return [*groups[:1], root / "proc/pressure/memory"]


def _memory_groups(root: Path) -> list[Path]:
    return _groups(root, "memory")


def _groups(root: Path, controller: str) -> list[Path]:
    """This process's cgroup directory for a controller and every parent up to the mount."""
    mounts: list[tuple[Path, str]] = []
    for line in _lines(root / "proc/self/cgroup"):
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


def _limit_of(group: Path) -> int | None:
    limits = [_number(group / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
    return min((limit for limit in limits if limit is not None and limit < _UNLIMITED), default=None)


def _left_in(group: Path, limit: int) -> int:
    used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
    stat = dict(line.split()[:2] for line in _lines(group / "memory.stat") if len(line.split()) == 2)
    # all file pages count as reclaimable: libraries shared with others may be charged here or elsewhere, and the plan
    # counts those this process maps
    file_pages = [int(stat.get(f"total_{kind}_file", stat.get(f"{kind}_file", "0"))) for kind in ("active", "inactive")]
    return max(0, limit - max(0, used - sum(file_pages)))


def _number(path: Path) -> int | None:
    words = _words(path)
    return int(words[0]) if words and words[0].isdigit() else None


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def page_cache_reserve(limit_bytes: int) -> int:
    """Return what a cgroup keeps for pages of files and of the kernel: 1/64 of its limit, at most 64 MiB.

    Page tables alone take 1/512 of what is resident.
    """
    return min(_MOST_FOR_PAGES, limit_bytes // _PAGES_SHARE)


@dataclass(frozen=True)
class Ceiling:
    """The most the whole process may use, and what sets it."""

    bytes: int
    reason: str


def memory_ceiling(
    limits: SystemLimits, *, requested: int | None = None, own_anonymous_bytes: int = 0, reserve_bytes: int = 0
) -> Ceiling:
    """Return the tightest of --memory, what the cgroup leaves and what the machine has available.

    With auto, a cgroup keeps a reserve as the machine does: page tables, buffers of the kernel and clean pages of files
    are charged to it beside what the plan counts, and without any room for them it stalls before it kills.

    Args:
        limits: what the system reports; what this process already uses is no longer in it.
        requested: --memory; None for auto.
        own_anonymous_bytes: anonymous memory of this process, added back: it is in the system's figures and in the
            plan.
        reserve_bytes: left to the rest of the machine out of what is available (auto only: a stated size is the
            user's word, cut only by what really exists).
    """
    reserve = reserve_bytes if requested is None else 0
    options = [Ceiling(max(0, limits.available_bytes + own_anonymous_bytes - reserve), "memory available")]
    if reserve:
        options[0] = Ceiling(options[0].bytes, f"memory available less {format_size(reserve)} for the system")
    if limits.cgroup_free_bytes is not None:
        free = limits.cgroup_free_bytes + own_anonymous_bytes
        most = free if limits.cgroup_limit_bytes is None else min(free, limits.cgroup_limit_bytes)
        kept = page_cache_reserve(limits.cgroup_limit_bytes or most) if requested is None else 0
        less = f" less {format_size(kept)} for pages of files" if kept else ""
        options.append(Ceiling(max(0, most - kept), f"cgroup limit of {limits.cgroup_path}{less}"))
    if requested is not None:
        options.append(Ceiling(requested, "--memory"))
    return min(options, key=lambda option: option.bytes)
