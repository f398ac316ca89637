"""`make tables` runs everything that writes tables and pages from the repository alone."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.compare.__main__ import VERBS

ROOT = Path(__file__).parents[2]
TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py") if '"--check"' in path.read_text(encoding="utf-8"))


def commands(target: str) -> str:
    """What make would run for a target, its prerequisite taken as done."""
    done = subprocess.run(
        ["make", "-n", "-o", "V/.test", "VENV=V", target], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return done.stdout


def named(target: str, loop: str) -> list[str]:
    """The words that a loop of a target goes over."""
    found = re.search(rf"for {loop} in ([\w ]+);", commands(target))
    assert found, f"make {target}: expected a loop over {loop}"
    return found[1].split()


@pytest.mark.parametrize("target", ["tables", "tables-check"])
def test_it_runs_every_tool_that_can_check_its_output(target):
    assert sorted(named(target, "tool")) == TOOLS
    assert len(TOOLS) >= 13


@pytest.mark.parametrize("target", ["tables", "tables-check"])
def test_it_runs_what_writes_pages_of_the_comparison(target):
    written = [verb for verb in VERBS if verb != "run"]
    assert named(target, "verb") == written
    assert "report" in written


def test_a_page_out_of_date_fails_the_check_and_is_named(tmp_path):
    """With a stand-in for Python that finds one tool's page old."""
    fake = tmp_path / "bin/python"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\ncase "$*" in *board_table.py*) exit 1;; esac\n')
    fake.chmod(0o755)
    (tmp_path / ".test").touch()
    argv = ["make", "-o", f"{tmp_path}/.test", f"VENV={tmp_path}", "tables-check"]
    done = subprocess.run(argv, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "out of date: run make tables; differing: tools/board_table.py\n" in done.stderr


def test_contributors_are_told():
    assert "`make tables`" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
