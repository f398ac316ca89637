"""Check the import contracts of pyproject.toml on the source tree.

An editable install adds the repository root to `edge_runtime.__path__` (because `profiles/` lies there), which makes
every folder look like part of the package. So the contracts are checked without the editable finder.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run import-linter as if the packages were plain folders on the path."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if "ScikitBuild" not in type(finder).__name__]
    sys.path[:0] = [str(ROOT), str(ROOT / "export")]
    from importlinter import cli

    return int(cli.lint_imports(config_filename=str(ROOT / "pyproject.toml")))


if __name__ == "__main__":
    sys.exit(main())
