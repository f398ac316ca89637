"""Write the table of checks in docs/doctor.md from their registry: `python tools/doctor_table.py [--check]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.lab.doctor import report
from edge_runtime.lab.doctor.findings import CHECKS

PAGE = Path(__file__).parents[1] / "docs/doctor.md"
START, END = "<!-- checks: written by tools/doctor_table.py -->", "<!-- end of checks -->"


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


def page_of(old: str) -> str:
    """Return the page with its table replaced.

    Raises:
        SystemExit: the markers are missing.
    """
    before, found, rest = old.partition(START)
    _, closing, after = rest.partition(END)
    if not found or not closing:
        raise SystemExit(f"{PAGE.name}: expected the lines {START!r} and {END!r}.")
    return f"{before}{START}\n\n{chr(10).join(rows())}\n\n{END}{after}"


def main() -> int:
    """Write the page, or say whether it is up to date."""
    page = PAGE.read_text(encoding="utf-8")
    fresh = page_of(page)
    if "--check" in sys.argv:
        return int(fresh != page)
    PAGE.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
