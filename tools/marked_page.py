"""Pages with parts that a tool writes: what lies between two markers, and writing or comparing the files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path


def put(page: str, name: str, tool: str, lines: Iterable[str]) -> str:
    """Return a page with what lies between the markers of `name` replaced.

    Args:
        page: the text.
        name: of the part, as its markers have it.
        tool: name of the file in tools/ that writes it.
        lines: that it consists of.

    Raises:
        SystemExit: the markers are missing, are there twice, or in another order.
    """
    start, end = f"<!-- {name}: written by tools/{tool}.py -->", f"<!-- end of {name} -->"
    before, _, rest = page.partition(start)
    _, _, after = rest.partition(end)
    if page.count(start) != 1 or page.count(end) != 1 or end in before:
        raise SystemExit(f"{tool}: expected the lines {start!r} and {end!r} once each, in this order.")
    return "\n".join((f"{before}{start}", "", *lines, "", f"{end}{after}"))


def put_all(path: Path, tool: str, parts: Mapping[str, Iterable[str]]) -> str:
    """Return the text of a file with several parts replaced, by name."""
    page = path.read_text(encoding="utf-8")
    for name, lines in parts.items():
        page = put(page, name, tool, lines)
    return page


def write(pages: Mapping[Path, str], *, check: bool) -> int:
    """Write files, or with `check` only compare them; return the tool's exit code: 1 if `check` found an old one."""
    old = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if not check:
        for path in old:
            path.write_text(pages[path], encoding="utf-8")
    return int(check and bool(old))
