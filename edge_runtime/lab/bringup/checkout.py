"""Which commit a source tree is at, and what differs from it: what a result was measured with."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_RESULTS = ":!benchmarks/results"


def source_tree(root: Path, *, paths: Sequence[str] = (".", _RESULTS), new_files: bool = True) -> dict[str, Any]:
    """Return the commit, and whether files differ from it; None where that cannot be told.

    Args:
        root: of the source tree.
        paths: whose changes count, as git takes them; results are left out by default.
        new_files: files that git neither tracks nor ignores count.
    """
    untracked = f"--untracked-files={'normal' if new_files else 'no'}"
    changes = _git(root, "status", "--porcelain", untracked, "--", *paths)
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    return {
        "commit": None if commit is None else commit.decode().strip(),
        "changed": None if changes is None else bool(changes),
    }


def digest_of_changes(root: Path) -> str | None:
    """Return a digest of how tracked files differ from the commit, results aside; None where that cannot be told."""
    plain = ("--no-ext-diff", "--no-textconv", "--no-color", "--full-index")  # the index names what a binary file holds
    changes = _git(root, "diff", *plain, "HEAD", "--", ".", _RESULTS)
    return None if changes is None else hashlib.sha256(changes).hexdigest()[:12]


def _git(root: Path, *words: str) -> bytes | None:
    program = shutil.which("git")
    if program is None:
        return None
    command = [program, "--no-optional-locks", "-C", str(root), *words]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
