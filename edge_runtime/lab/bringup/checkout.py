"""Which commit a source tree is at, and whether files differ from it: what a result was measured with."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

_RESULTS = ":!benchmarks/results"


def source_tree(root: Path, *, new_files: bool = True) -> dict[str, Any]:
    """Return the commit, and whether files differ from it, results aside; None where that cannot be told.

    Args:
        root: of the source tree.
        new_files: files that git neither tracks nor ignores count.
    """
    program = shutil.which("git")

    def git(*words: str) -> str | None:
        if program is None:
            return None
        command = [program, "--no-optional-locks", "-C", str(root), *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    untracked = f"--untracked-files={'normal' if new_files else 'no'}"
    changes = git("status", "--porcelain", untracked, "--", ".", _RESULTS)
    return {"commit": git("rev-parse", "--short=12", "HEAD"), "changed": None if changes is None else bool(changes)}
