"""A backend as an installed package offers it: an entry point, found by whatever process has its folder on the path."""

from __future__ import annotations

import os
from pathlib import Path

from edge_runtime.backends import ENTRY_POINTS


def offer(folder: Path, name: str, make: str, *sources: Path, group: str = ENTRY_POINTS) -> dict[str, str]:
    """Write what an installer writes for a package with a backend; return the environment that finds it.

    Args:
        folder: stands for site-packages.
        name: of the backend.
        make: module:function.
        *sources: folders its modules are in.
        group: of the entry point.
    """
    info = folder / f"{name}_backend-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-backend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {make}\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder), *map(str, sources)])}
