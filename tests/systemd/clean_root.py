"""Roots that none of ours, and nothing of this machine, was ever installed in: made by debootstrap, booted by machine.py."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import REPO

BOARD = (
    "ca-certificates", "curl", "iproute2", "man-db", "openssl", "procps", "python3", "sudo", "systemd", "util-linux",
)  # fmt: skip
"""What a board has: Python, and what a person needs who looks after it. No compiler, no pip, no venv."""
FROM_HERE = ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")
"""How this machine reaches its network and its package index."""


def repository() -> list[Path]:
    """The folders a clone of this checkout reads: it, and where its objects lie if it is a worktree."""
    command = ["git", "-C", str(REPO), "rev-parse", "--path-format=absolute", "--git-common-dir"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    objects = Path(found.stdout.strip() or REPO)
    return [REPO] if objects.is_relative_to(REPO) else [REPO, objects]


def codename() -> str:
    """The release of Debian this machine is, else Debian 12."""
    text = Path("/etc/os-release").read_text()
    words = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return words.get("VERSION_CODENAME", "bookworm") if words.get("ID") == "debian" else "bookworm"


@contextmanager
def clean_root(otherwise: str) -> Iterator[Path]:
    """Make a root of a fresh Debian; skips the test, and says what was not done, where that is impossible."""
    if shutil.which("debootstrap", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip(f"debootstrap is not installed; {otherwise}")
    folder = REPO / "build/clean-roots" / "-".join([codename(), platform.machine(), str(os.getpid())])
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(BOARD)}", codename(), str(folder)]
    try:
        done = subprocess.run(
            [*command, "http://deb.debian.org/debian"],
            capture_output=True,
            text=True,
            check=False,
            timeout=1200,
            # it is thrown away: nothing need be on the drive before the next file is unpacked
            env={**os.environ, "DPKG_FORCE": "unsafe-io"},
        )
        if done.returncode:
            pytest.skip(f"no root could be made ({done.stdout[-300:]}{done.stderr[-300:]}); {otherwise}")
        for name in FROM_HERE:
            if os.path.exists(name) and Path(f"{folder}{name}").parent.is_dir():
                shutil.copy(name, f"{folder}{name}")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
