"""What an installation takes, as docs/operations.md lists it: native runners come near, what is farther is named."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
from conftest import REPO

sys.path.insert(0, str(REPO / "tools/release"))

import common
import footprint


def listed(**libraries):
    """The table of one target, with sizes of libraries in MB."""
    sizes = Counter({name: round(size * 1e6) for name, size in libraries.items()})
    return footprint.table({"arm64": footprint.Footprint(sizes, 30_000_000)})


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (listed(numpy=50.0, ours=6.0), []),
        (listed(ours=5.5, numpy=50.0), []),
        (listed(ours=6.5, numpy=50.9), []),
        (listed(ours=6.6, numpy=50.0), ["ours: listed 6.0, found 6.6"]),
        (listed(ours=5.4, numpy=50.0), ["ours: listed 6.0, found 5.4"]),
        (listed(ours=6.0, numpy=51.1), ["numpy: listed 50.0, found 51.1"]),
        (listed(ours=6.0, numpy=48.9), ["numpy: listed 50.0, found 48.9"]),
        (listed(ours=6.0, scipy=50.0), ["numpy: listed, not found", "scipy: not listed"]),
    ],
)
def test_two_builds_are_near_and_what_is_farther_is_named(found, said):
    assert footprint.differences(listed(ours=6.0, numpy=50.0), found) == said


@pytest.mark.parametrize(("size", "said"), [(0.5, []), (0.6, ["the others: listed 1.0, found 1.6"])])
def test_a_library_without_a_row_is_seen_by_what_the_others_take(size, said):
    assert footprint.differences(listed(ours=60.0, small=1.0), listed(ours=60.0, small=1.0, another=size)) == said


def test_another_target_or_column_is_named():
    table = listed(ours=6.0)
    for other, said in (
        (
            table.replace("arm64, Python 3.11", "arm64, Python 3.12"),
            "MB: listed arm64, Python 3.11, found arm64, Python 3.12",
        ),
        (table.replace(" 6.0 |", " 6.0 | 6.0 |"), "ours: listed nothing, found 6.0"),
        (table.replace(" 6.0 |", " - |"), "ours: listed 6.0, found -"),
    ):
        assert footprint.differences(table, other) == [said]


def test_the_limit_holds_whatever_is_listed():
    footprint.hold_to_limit("arm64", footprint.Footprint(Counter(numpy=1), common.MOST_BYTES - 2))
    with pytest.raises(common.Failed, match="arm64: 250 MB, expected below 250"):
        footprint.hold_to_limit("arm64", footprint.Footprint(Counter(numpy=1), common.MOST_BYTES - 1))


def test_a_stale_table_of_sizes_is_refused(tmp_path, monkeypatch):
    sizes = {
        target: footprint.Footprint(footprint.Counter({"numpy": 50_000_000}), 1_000_000) for target in footprint.SHOWN
    }
    monkeypatch.setattr(footprint, "measure", lambda out, target, python: sizes[target])
    monkeypatch.setattr(footprint, "PAGE", tmp_path / "page.md")
    footprint.PAGE.write_text(f"before\n{footprint.BEGIN}{footprint.END}after\n")
    with pytest.raises(common.Failed, match="lists something else"):
        footprint.go(tmp_path, writes=False)
    footprint.go(tmp_path, writes=True)
    footprint.go(tmp_path, writes=False)
    assert footprint.PAGE.read_text().startswith("before\n")
    sizes["arm64"] = footprint.Footprint(footprint.Counter({"numpy": 52_000_000}), 1_000_000)
    with pytest.raises(common.Failed, match="Run: make footprint"):
        footprint.go(tmp_path, writes=False)


def test_a_python_that_does_not_run_lists_no_sizes(tmp_path, monkeypatch):
    (tmp_path / "python3.12").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / "python3.12").chmod(0o755)
    (tmp_path / "brought.pyc").write_bytes(b"compiled elsewhere")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(common.Failed, match=r"python3.12 -c .*exit 127"):
        footprint.compiled_bytes(tmp_path, "3.12")
