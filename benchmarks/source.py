"""Which source a figure was measured with: the commit, and whether the code had changes on top of it."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.lab.bringup.checkout import source_tree

ROOT = Path(__file__).parents[1]
CHANGED = "+changes"
"""Follows a commit when the code that was measured is not what was committed."""
_CODE = ("edge_runtime", "export", "benchmarks", "CMakeLists.txt", "pyproject.toml", ":!benchmarks/results")


def commit(root: Path = ROOT) -> str | None:
    """Return the commit of a checkout, 12 digits; None where there is no repository to ask, as in an unpacked archive.

    Args:
        root: the checkout. Pages and results may differ from the commit, code may not without being said.
    """
    tree = source_tree(root, paths=_CODE, new_files=False)
    if tree["commit"] is None:
        return None
    return str(tree["commit"]) + ("" if tree["changed"] is False else CHANGED)
