"""Which source a figure was measured with: the commit, and whether the code had changes on top of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHANGED = "+changes"
"""Follows a commit when the code that was measured is not what was committed."""
_CODE = ("edge_runtime", "export", "benchmarks", "CMakeLists.txt", "pyproject.toml", ":!benchmarks/results")


def commit(root: Path = ROOT) -> str | None:
    """Return the commit of a checkout, 12 digits; None where there is no repository to ask, as in an unpacked archive.

    Args:
        root: the checkout. Pages and results may differ from the commit, code may not without being said.
    """
    try:
        found = _git(root, "rev-parse", "--short=12", "HEAD")
        if found.returncode:
            return None
        has_changes = _git(root, "diff", "--quiet", "HEAD", "--", *_CODE).returncode != 0
    except OSError:
        return None
    return found.stdout.strip() + (CHANGED if has_changes else "")


def _git(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(("git", *words), cwd=root, capture_output=True, text=True, check=False)
