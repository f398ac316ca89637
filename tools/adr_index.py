"""Write the index of docs/adr/README.md from the pages: `python tools/adr_index.py [--check]`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import marked_page

FOLDER = Path(__file__).parents[1] / "docs" / "adr"


def row(path: Path) -> str:
    """One line of the index.

    Raises:
        SystemExit: the page has no title, status or date.
    """
    text = path.read_text(encoding="utf-8")
    head = re.match(r"# (\d+)\. (.+)\n\n- \*\*Status:\*\* (.+)\n- \*\*Date:\*\* (\d{4}-\d\d-\d\d)", text)
    if not head:
        raise SystemExit(f"{path.name}: expected title, status and date as docs/adr/README.md shows them.")
    number, title, status, date = head.groups()
    return f"| {number} | [{title}]({path.name}) | {status} | {date} |"


def main() -> int:
    """Write the index, or say whether it is up to date."""
    page, rows = FOLDER / "README.md", (row(path) for path in sorted(FOLDER.glob("[0-9]*.md")))
    table = ["| no. | decision | status | date |", "|---|---|---|---|", *rows]
    fresh = marked_page.put_all(page, "adr_index", {"index": table})
    return marked_page.write({page: fresh}, check="--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
