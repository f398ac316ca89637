"""Write the index of docs/adr/README.md, and close pages: `python tools/adr_index.py [--check]`.

A page may be edited on the day of its date. Once a page of a later day exists its digest goes into docs/adr/closed.txt,
and stays there as it is.
"""

from __future__ import annotations

import hashlib
import re
import sys
import textwrap
from collections.abc import Collection
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import marked_page

FOLDER = Path(__file__).parents[1] / "docs" / "adr"
_WIDTH = 100
_HEAD = re.compile(r"# (\d+)\. (.+)\n\n- \*\*Status:\*\* (.+)\n- \*\*Date:\*\* (\d{4}-\d\d-\d\d)")


class Page(NamedTuple):
    """A decision: what its head says, and all of it."""

    path: Path
    number: int
    title: str
    status: str
    date: str
    text: str

    @staticmethod
    def of(path: Path) -> Page:
        """Read a page.

        Raises:
            SystemExit: it has no title, status or date.
        """
        text = path.read_text(encoding="utf-8")
        head = _HEAD.match(text)
        if not head:
            raise SystemExit(f"{path.name}: expected title, status and date as docs/adr/README.md shows them.")
        return Page(path, int(head[1]), head[2], head[3], head[4], text)

    def row(self) -> str:
        """One line of the index."""
        return f"| {self.number} | [{self.title}]({self.path.name}) | {self.status} | {self.date} |"

    def digest(self) -> str:
        """Digest of what may not change: everything but the status, the targets of links and how lines are broken."""
        text = self.text.replace(f"- **Status:** {self.status}\n", "")
        words = " ".join(re.sub(r"\]\([^)]*\)", "]", text).split())
        return hashlib.sha256(words.encode()).hexdigest()[:16]


def numbers(used: Collection[int]) -> list[str]:
    """Say which number is the last one, and which below it are not used."""
    free = _ranges(sorted(set(range(1, max(used))) - {*used}))
    return textwrap.wrap(f"The last number is {max(used)}. Not used: {', '.join(free) or 'none'}.", _WIDTH)


def _ranges(found: list[int]) -> list[str]:
    runs = ([n for _, n in run] for _, run in groupby(enumerate(found), lambda pair: pair[1] - pair[0]))
    return [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]


def closed(pages: list[Page], present: str) -> str:
    """Return the digests of closed pages: those there are, and those of pages that a later one has closed since.

    Args:
        pages: all of them.
        present: the file as it is.
    """
    known = dict(line.split(" ") for line in present.splitlines())
    latest = max(page.date for page in pages)
    fresh = {page.path.name: page.digest() for page in pages if page.date < latest}
    return "".join(f"{name} {digest}\n" for name, digest in sorted({**fresh, **known}.items()))


def changed(pages: list[Page], present: str) -> list[str]:
    """Return the names of closed pages that are not what they were, or are gone."""
    found = {page.path.name: page.digest() for page in pages}
    return [name for name, digest in (line.split(" ") for line in present.splitlines()) if found.get(name) != digest]


def read_pages(folder: Path) -> list[Page]:
    """Return the pages of a folder, in order. Errors are those of `Page.of`."""
    return [Page.of(path) for path in sorted(folder.glob("[0-9]*.md"))]


def main() -> int:
    """Write the files, or say whether they are up to date. A closed page that was edited is an error."""
    pages = read_pages(FOLDER)
    readme, digests = FOLDER / "README.md", FOLDER / "closed.txt"
    present = digests.read_text(encoding="utf-8") if digests.exists() else ""
    if edited := changed(pages, present):
        raise SystemExit(f"{', '.join(edited)}: edited after its day. Write a page that supersedes it.")
    table = ["| no. | decision | status | date |", "|---|---|---|---|", *(page.row() for page in pages)]
    fresh = marked_page.put_all(
        readme, "adr_index", {"index": table, "numbers": numbers({page.number for page in pages})}
    )
    return marked_page.write({readme: fresh, digests: closed(pages, present)}, check="--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
