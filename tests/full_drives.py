"""A drive that fills up soon: a small tmpfs, mounted where a test wants it. Needs root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_drive(mount: Path, size: str) -> Iterator[Path]:
    """Mount a tmpfs of so many bytes (``600k``) on a new folder; skips the test where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a tmpfs")
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mount], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield mount
    finally:
        # lazily: whatever walks through files of this machine just then would keep it busy
        subprocess.run(["umount", "--lazy", mount], check=True)
