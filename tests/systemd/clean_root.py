"""Roots that none of ours, and nothing of this machine, was ever installed in: made by debootstrap, booted by machine.py."""

from __future__ import annotations

import atexit
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO
from machine import Machine, booted, missing

BOARD = (
    "ca-certificates", "curl", "iproute2", "man-db", "openssl", "procps", "python3", "sudo", "systemd", "util-linux",
)  # fmt: skip
"""What a board has: Python, and what a person needs who looks after it. No compiler, no pip, no venv."""
FROM_HERE = ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")
"""How this machine reaches its network and its package index."""
REACHES = tuple(f"{name}={value}" for name, value in os.environ.items() if name.startswith("PIP_") or "CERT" in name)
"""What of the environment says that; all else of it, such as a compiler's launcher, a reader does not have."""


class RootError(Exception):
    """No clean root can be made on this machine."""


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


@cache
def clean_root() -> Path:
    """Make a root of a fresh Debian; it serves every test of this process, which write over it, not into it.

    Raises:
        RootError: none can be made here; the message says why.
    """
    if shutil.which("debootstrap", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        raise RootError("debootstrap is not installed")
    folder = REPO / "build/clean-roots" / "-".join([codename(), platform.machine(), str(os.getpid())])
    folder.parent.mkdir(parents=True, exist_ok=True)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(BOARD)}", codename(), str(folder)]
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
        raise RootError(f"no root could be made ({done.stdout[-300:]}{done.stderr[-300:]})")
    for name in FROM_HERE:
        if os.path.exists(name) and Path(f"{folder}{name}").parent.is_dir():
            shutil.copy(name, f"{folder}{name}")
    return folder


@contextmanager
def clean_machine(otherwise: str, **how: Any) -> Iterator[Machine]:
    """Boot a machine over a clean root; skips the test, and says what was not done, where that is impossible.

    Args:
        otherwise: what was not done.
        how: as `booted` takes it.
    """
    if lacks := missing():
        pytest.skip(f"no machine can be booted here ({lacks}); {otherwise}")
    try:
        root = clean_root()
    except RootError as err:
        pytest.skip(f"{err}; {otherwise}")
    with booted(root=root, **how) as machine:
        yield machine
