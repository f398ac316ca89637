"""Tables of measurements in the documents: a caption says what was measured, and when."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import REPO

PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
RULE = re.compile(r"\|[-| :]+\|")
NUMBER = re.compile(r"[~<>(*-]*\d")
CAPTION = re.compile(r"(?:^|\n|[.:] )Caption\b[^:\n]*: ")
DATE = re.compile(r"\b20\d\d-\d\d-\d\d\b")
NO_MEASUREMENTS = {
    "docs/format.md": "1.6 Records of 4-bit floats",
    "docs/http-api.md": "Limits a client meets",
    "docs/benchmarks.md": "Benchmarks: against its peers on the same checkpoint, under the same memory",
}
"""Pages with tables of numbers that nobody measured, and the heading above: a format, limits, shapes of models."""


class Table(NamedTuple):
    """A table most of whose cells are numbers; `above` is the text of its section before it, and of those around it."""

    line: int
    heading: str
    above: str


def tables(text: str) -> Iterator[Table]:
    """Yield the tables of numbers of a page that no tool writes."""
    sections: dict[int, tuple[str, list[str]]] = {}
    setup: list[str] = []
    lines, is_written = text.splitlines(), False
    if "\nWritten by `tools/" in text:
        return
    for number, line in enumerate(lines):
        if heading := re.match(r"(#+) (.+)", line):
            depth = len(heading[1])
            sections = {other: found for other, found in sections.items() if other < depth}
            sections[depth] = heading[2], []
        elif sections:
            sections[max(sections)][1].append(line)
            if sections[max(sections)][0] == "Setup":
                setup.append(line)
        is_written = "<!-- " in line and not line.startswith("<!-- end of") if line.startswith("<!--") else is_written
        if RULE.fullmatch(line) and not is_written and _is_numeric(lines[number + 1 :]):
            above = "\n".join("\n".join(found) for _, found in sections.values())
            yield Table(number, sections[max(sections)][0], "\n".join(setup) + "\n" + above)


def _is_numeric(below: list[str]) -> bool:
    cells = []
    for line in below:
        if not line.startswith("|"):
            break
        cells += [cell.strip() for cell in line.strip("|").split("|")[1:]]
    return 2 * sum(bool(NUMBER.match(cell)) for cell in cells) >= len(cells) > 0


def without_caption(text: str, exempt: str | None = None) -> list[str]:
    """The tables of a page that lack a caption, or a date in it or in the text above."""
    return [
        f"line {table.line}: {table.heading}"
        for table in tables(text)
        if table.heading != exempt and not (CAPTION.search(table.above) and DATE.search(table.above))
    ]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_tables_of_measurements_have_a_caption_with_a_date(path: Path):
    name = path.relative_to(REPO).as_posix()
    assert without_caption(path.read_text(encoding="utf-8"), NO_MEASUREMENTS.get(name)) == []


def test_pages_of_measurements_are_looked_at():
    """So that the test above does not pass because it finds no table."""
    for name in ("quality", "memory", "tuning", "policies", "kernels", "large-model", "policies-measured"):
        assert [*tables((REPO / f"docs/{name}.md").read_text(encoding="utf-8"))], name


TABLE = "| a | b |\n|---|---|\n| x | 3.5 |\n"


@pytest.mark.parametrize(
    ("page", "is_refused"),
    [
        (f"# P\n\nText of 2026-11-29.\n\n{TABLE}", True),
        (f"# P\n\nCaption: on a machine.\n\n{TABLE}", True),
        (f"# P\n\n## A\n\nCaption: on a machine, 2026-11-29.\n\n## B\n\n{TABLE}", True),
        (f"# P\n\nCaption: on a machine, 2026-11-29.\n\n{TABLE}", False),
        (f"# P\n\nCaption of both tables: on a machine, 2026-11-29.\n\n## A\n\n{TABLE}", False),
        (f"# P\n\n<!-- x: written by tools/x.py -->\n\n{TABLE}\n<!-- end of x -->\n", False),
        (f"# P\n\n<!-- x: written by tools/x.py -->\n<!-- end of x -->\n\n{TABLE}", True),
        ("# P\n\n| a | b |\n|---|---|\n| x | words |\n", False),
    ],
)
def test_a_table_without_caption_or_date_is_refused(page, is_refused):
    assert bool(without_caption(page)) == is_refused
