"""Write the table of checks in docs/doctor.md from their registry: `python tools/doctor_table.py [--check]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import marked_page

from edge_runtime.lab.doctor import report
from edge_runtime.lab.doctor.findings import CHECKS

PAGE = Path(__file__).parents[1] / "docs/doctor.md"


def rows() -> Iterator[str]:
    """Yield a line for each check."""
    assert report.CHECKS is CHECKS
    yield "| check | finds | where | why it matters | fix |"
    yield "|---|---|---|---|---|"
    for one in CHECKS.values():
        mark = "**error** " if one.severity == "error" else ""
        yield f"| `{one.name}` | {mark}{one.about} | {one.where} | {_cell(one.why)} | {_cell(one.fix)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main() -> int:
    """Write the page, or say whether it is up to date."""
    fresh = marked_page.put_all(PAGE, "doctor_table", {"checks": rows()})
    return marked_page.write({PAGE: fresh}, check="--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
