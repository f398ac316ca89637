"""What a figure was measured on: board, processor, memory, kernel, and the drive and file system under a folder."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

_KIB = 1024


def describe_hardware(folder: Path, root: Path = Path("/")) -> dict[str, Any]:
    """Describe this machine; what cannot be read is None.

    Args:
        folder: the bundle, whose drive and file system are described.
        root: where /proc and /sys are; tests pass a fake tree.
    """
    device = os.stat(folder).st_dev
    return {
        "board": _text(root / "proc/device-tree/model") or _text(root / "sys/devices/virtual/dmi/id/product_name"),
        "cpu": cpu_model(_text(root / "proc/cpuinfo") or ""),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "governor": _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "memory_bytes": meminfo(_text(root / "proc/meminfo") or "", "MemTotal"),
        "swap_bytes": meminfo(_text(root / "proc/meminfo") or "", "SwapTotal"),
        "kernel": f"{platform.system()} {platform.release()}",
        "drive": describe_drive(os.major(device), os.minor(device), root),
        "file_system": file_system(_text(root / "proc/self/mountinfo") or "", os.major(device), os.minor(device)),
    }


def describe_drive(major: int, minor: int, root: Path = Path("/")) -> dict[str, Any]:
    """Name the block device a file lies on: name, model, whether it spins, read-ahead in KiB; None where unknown."""
    found = (root / "sys/dev/block" / f"{major}:{minor}").resolve()
    whole = found if (found / "queue").is_dir() else found.parent  # a partition's parent is the drive
    rotational = _text(whole / "queue/rotational")
    read_ahead = _text(whole / "queue/read_ahead_kb")
    return {
        "name": whole.name if whole.is_dir() and (whole / "queue").is_dir() else None,
        "model": _text(whole / "device/model"),
        "is_rotational": None if rotational is None else rotational == "1",
        "read_ahead_kib": int(read_ahead) if read_ahead and read_ahead.isdigit() else None,
    }


def cpu_model(cpuinfo: str) -> str | None:
    """Return the processor's name of /proc/cpuinfo; ARM boards only give the part, as 'implementer/part'."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    if "model name" in fields:
        return fields["model name"]
    parts = [fields[name] for name in ("CPU implementer", "CPU part") if name in fields]
    return "/".join(parts) or None


def meminfo(text: str, name: str) -> int | None:
    """Return a field of /proc/meminfo in bytes."""
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * _KIB
    return None


def file_system(mountinfo: str, major: int, minor: int) -> str | None:
    """Return the type of the file system on a device, from /proc/self/mountinfo."""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) > 2 and fields[2] == f"{major}:{minor}" and right:
            return right.split()[0]
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip("\0 \n") or None
    except OSError:
        return None
