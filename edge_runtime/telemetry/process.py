"""What the kernel says about this process: resident memory now and at its peak."""

from __future__ import annotations

import ctypes
import os
import resource


def rss_bytes() -> int:
    """Resident set size now, file-backed pages included."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def anonymous_bytes() -> int:
    """Anonymous memory of this process now: memory that no file backs."""
    return _status_bytes("RssAnon") or rss_bytes()


def anonymous_pages_bytes(statm: bytes) -> int:
    """Return what `anonymous_bytes` does, from the content of /proc/self/statm, which costs less; 0 if it has none."""
    words = statm.split()
    return (int(words[1]) - int(words[2])) * os.sysconf("SC_PAGE_SIZE") if len(words) > 2 else 0


def peak_rss_bytes() -> int:
    """Highest resident set size since the process started (VmHWM, or ru_maxrss where /proc hides it)."""
    return _status_bytes("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def trim_heap() -> None:
    """Give free pages of the heap back to the system (glibc's `malloc_trim`); does nothing without glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status_bytes(field: str) -> int | None:
    try:
        with open("/proc/self/status", "rb") as file:
            for line in file:
                if line.startswith(field.encode() + b":"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def drive_bytes() -> int | None:
    """Bytes this process made the storage layer fetch so far; the page cache's do not count. None if unknown."""
    try:
        with open("/proc/self/io", "rb") as file:
            return next((int(line.split()[1]) for line in file if line.startswith(b"read_bytes:")), None)
    except OSError:
        return None
