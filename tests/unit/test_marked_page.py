"""tools/marked_page.py: a tool replaces its own part of a page and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from marked_page import put, put_all, write

START, END = "<!-- a: written by tools/t.py -->", "<!-- end of a -->"
PAGE = f"before\n{START}\n\nold\n\n{END}\nafter\n"


def test_what_is_between_the_markers_is_replaced_and_the_rest_stays() -> None:
    fresh = put(PAGE, "a", "t", iter(["| 1 |", "| 2 |"]))
    assert fresh == f"before\n{START}\n\n| 1 |\n| 2 |\n\n{END}\nafter\n"
    assert put(fresh, "a", "t", ["| 1 |", "| 2 |"]) == fresh


@pytest.mark.parametrize(
    "page", ["", PAGE.replace(START, ""), PAGE.replace(END, ""), f"{END}\n{START}\n", PAGE + PAGE, f"{PAGE}{END}"]
)
def test_a_page_whose_markers_are_not_there_once_each_is_refused(page: str) -> None:
    with pytest.raises(SystemExit, match="t: expected the lines .*written by tools/t.py.* once each, in this order"):
        put(page, "a", "t", ["new"])


def test_an_old_file_is_found_and_then_written(tmp_path: Path) -> None:
    old, same, new = tmp_path / "old.md", tmp_path / "same.md", tmp_path / "new.md"
    old.write_text(PAGE)
    same.write_text("as it was")
    pages = {old: put_all(old, "t", {"a": ["new"]}), same: "as it was", new: "text"}
    before = same.stat().st_mtime_ns
    assert write(pages, check=True) == 1
    assert not new.exists(), "a check writes nothing"
    assert write(pages, check=False) == 0
    assert write(pages, check=True) == 0
    assert (old.read_text(), new.read_text()) == (PAGE.replace("old", "new"), "text")
    assert same.stat().st_mtime_ns == before, "what is up to date is not written again"
