"""What this process may use: memory left by the system and its cgroups (version 1 and 2), and CPUs."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.base.errors import DeviceError
from edge_runtime.base.kept_files import Read, read_file
from edge_runtime.base.sizes import KIB, MIB, format_size
from edge_runtime.config.cgroups import MemoryGroup, groups_of, kept_in_group

_PAGES_SHARE, _MOST_FOR_PAGES = 64, 64 * MIB


@dataclass(frozen=True)
class OwnMemory:
    """What this process holds: it is in the plan, and the system reports it as gone. Each byte is in one of the two.

    Attributes:
        anonymous_bytes: anonymous pages of this process, and of its helper processes as far as the plan counts those.
        driver_bytes: of the system's memory, held by a driver for this process, and no pages of its own: the GPU's
            where it shares that memory, and what the driver pins.
    """

    anonymous_bytes: int = 0
    driver_bytes: int = 0


NOTHING = OwnMemory()


@dataclass(frozen=True)
class SystemLimits:
    """Memory as the system reports it, as if this process held nothing.

    Attributes:
        total_bytes: memory of the machine.
        available_bytes: MemAvailable (free memory plus what can be reclaimed without swapping) and what the process
            holds.
        cgroup_free_bytes: least that is left in any enclosing cgroup (its limit, less use by others that cannot be
            reclaimed); None without a limit.
        cgroup_path: the cgroup that is tightest, for messages.
        cgroup_limit_bytes: lowest limit of any enclosing cgroup, whatever is in use.
    """

    total_bytes: int
    available_bytes: int
    cgroup_free_bytes: int | None = None
    cgroup_path: str = ""
    cgroup_limit_bytes: int | None = None


def read_limits(root: Path = Path("/"), own: OwnMemory = NOTHING) -> SystemLimits:
    """Read the limits of this process.

    Args:
        root: where /proc and /sys are; tests pass a fake tree.
        own: what it holds, which counts as free.

    Raises:
        DeviceError: /proc/meminfo cannot be read (not Linux).
    """
    return limits_of(read_file(root / "proc/meminfo"), memory_groups(root), own)


def limits_of(
    meminfo: bytes, groups: Iterable[MemoryGroup], own: OwnMemory = NOTHING, *, enough: int | None = None
) -> SystemLimits:
    """Return limits from what the kernel says. Nothing else adds what the process holds to what is left.

    Args:
        meminfo: content of /proc/meminfo.
        groups: every memory cgroup of this process.
        own: what this process holds, which counts as free.
        enough: it does not matter how much more than this, and what is kept in it, a cgroup leaves; None: it does.

    Raises:
        DeviceError: it is not that.
    """
    total, available = _kilobytes(meminfo, b"MemTotal"), _kilobytes(meminfo, b"MemAvailable")
    if total is None or available is None:
        raise DeviceError("/proc/meminfo: cannot be read, or lacks MemTotal or MemAvailable. This runtime needs Linux.")
    limited = [(limit, group) for group in groups if (limit := group.limit_bytes()) is not None]
    found = [(_left(group, limit, own, enough), str(group.path)) for limit, group in limited]
    left, where = min(found, default=(None, ""))
    free = available + own.anonymous_bytes + own.driver_bytes
    return SystemLimits(total, free, left, where, min((limit for limit, _ in limited), default=None))


def _left(group: MemoryGroup, limit: int, own: OwnMemory, enough: int | None) -> int:
    spare = None if enough is None else enough - own.anonymous_bytes + kept_in_group(limit)
    return group.left_bytes(limit, driver_bytes=own.driver_bytes, enough=spare) + own.anonymous_bytes


def memory_groups(root: Path = Path("/"), read: Read = read_file) -> list[MemoryGroup]:
    """Return the cgroups that count this process's memory, the nearest first."""
    return [MemoryGroup(path, read) for path in groups_of(root, "memory", read)]


def _kilobytes(meminfo: bytes, field: bytes) -> int | None:
    found = re.search(rb"^%s:\s*(\d+) kB" % field, meminfo, re.MULTILINE)
    return None if found is None else int(found[1]) * KIB


def available_cpus(root: Path = Path("/")) -> int:
    """CPUs this process may use: its affinity, cut to the CPU quota of its cgroups; at least 1."""
    cpus = float(len(os.sched_getaffinity(0)))
    for group in groups_of(root, "cpu"):
        quota = _words(group / "cpu.max") or [*_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us")]
        if len(quota) == 2 and quota[0].isdigit() and int(quota[1]) > 0:
            cpus = min(cpus, int(quota[0]) / int(quota[1]))
    return max(1, math.floor(cpus))


def _words(path: Path) -> list[str]:
    return read_file(path).decode(errors="replace").split()


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


def memory_ceiling(limits: SystemLimits, *, requested: int | None = None, reserve_bytes: int = 0) -> Ceiling:
    """Return the tightest of --memory, what the cgroup leaves and what the machine has available.

    With auto, a cgroup keeps a reserve as the machine does: page tables, buffers of the kernel and clean pages of files
    are charged to it beside what the plan counts, and without any room for them it stalls before it kills.

    Args:
        limits: what the system leaves, what this process holds included: that is in the plan.
        requested: --memory; None for auto.
        reserve_bytes: left to the rest of the machine out of what is available (auto only: a stated size is the
            user's word, cut only by what really exists).
    """
    reserve = reserve_bytes if requested is None else 0
    options = [Ceiling(max(0, limits.available_bytes - reserve), "memory available")]
    if reserve:
        options[0] = Ceiling(options[0].bytes, f"memory available less {format_size(reserve)} for the system")
    if limits.cgroup_free_bytes is not None:
        free, limit = limits.cgroup_free_bytes, limits.cgroup_limit_bytes
        most = free if limit is None else min(free, limit)
        kept = page_cache_reserve(limits.cgroup_limit_bytes or most) if requested is None else 0
        less = f" less {format_size(kept)} for pages of files" if kept else ""
        options.append(Ceiling(max(0, most - kept), f"cgroup limit of {limits.cgroup_path}{less}"))
    if requested is not None:
        options.append(Ceiling(requested, "--memory"))
    return min(options, key=lambda option: option.bytes)
