"""tools/hardware_run.py: row by row, so that a run that was cut goes on, and an old row is run again."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository of a source, a page and a result."""
    if shutil.which("git") is None:
        pytest.skip("no git: which rows are current was NOT tested")
    root = tmp_path / "tree"
    for name in ("source.py", "docs/page.md", "benchmarks/results/hardware/x86.part"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("1\n")
    git(root, "init", "-q")
    commit(root)
    return root


def git(root: Path, *words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True)


def commit(root: Path) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-qm", "x")


@pytest.fixture
def tool(tree: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = importlib.import_module("hardware_run")
    monkeypatch.setattr(found, "ROOT", tree)
    return found


class Commands:
    """Runs none; is interrupted after so many."""

    def __init__(self, tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran, self.most, self._tool = list[str](), 99, tool
        monkeypatch.setattr(tool, "run", self)
        monkeypatch.setattr(tool, "describe_machine", lambda: {"cpu": "this one"})

    def __call__(self, command: tuple[str, ...]) -> dict[str, Any]:
        if len(self.ran) == self.most:
            raise KeyboardInterrupt
        self.ran.append(" ".join(command))
        found = {"command": " ".join(command), "outcome": "passed", "tests": 1, "date": "2026-11-29", "seconds": 1}
        return found | self._tool.tree()

    def again(self, folder: Path) -> list[str]:
        self.ran.clear()
        assert self._tool.main(["x86", "--left", "--out", str(folder)]) == 0
        return self.ran


@pytest.fixture
def commands(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(tool, monkeypatch)


def test_a_run_that_was_cut_goes_on_with_the_next_row(tool: ModuleType, commands: Commands, tmp_path: Path):
    every = [" ".join(feature.checks["x86"]) for feature in tool.FEATURES if "x86" in feature.checks]
    commands.most = 3
    with pytest.raises(KeyboardInterrupt):
        tool.main(["x86", "--left", "--out", str(tmp_path)])
    assert len(json.loads((tmp_path / "x86.json").read_text())["features"]) == 3
    commands.most = 99
    assert commands.again(tmp_path) == every[3:]
    assert commands.again(tmp_path) == []


def test_rows_are_run_again_where_sources_changed_since(commands: Commands, tree: Path, tmp_path: Path):
    every = len(commands.again(tmp_path))
    for name, stale in (("docs/page.md", 0), ("benchmarks/results/hardware/x86.part", 0), ("source.py", every)):
        (tree / name).write_text("2\n")
        commit(tree)
        assert len(commands.again(tmp_path)) == stale, name
    (tree / "source.py").write_text("3\n")  # not committed: a row of it does not count later
    assert len(commands.again(tmp_path)) == every
    assert len(commands.again(tmp_path)) == every


def test_only_rows_that_passed_by_the_same_command_stay(commands: Commands, tmp_path: Path):
    commands.again(tmp_path)
    path = tmp_path / "x86.json"
    found = json.loads(path.read_text())
    found["features"]["encoder"]["outcome"] = "failed"
    found["features"]["trunk"]["command"] = "pytest tests/other.py"
    path.write_text(json.dumps(found))
    assert [command.split("/")[-1] for command in commands.again(tmp_path)] == [
        "test_encoder.py", "test_trunk_numerics.py",
    ]  # fmt: skip


def test_each_row_keeps_the_machine_it_ran_on(
    tool: ModuleType, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    commands.again(tmp_path)
    path = tmp_path / "x86.json"
    older = json.loads(path.read_text())
    for row in older["features"].values():
        del row["machine"]
    path.write_text(json.dumps(older | {"machine": {"cpu": "an older one"}}))
    assert tool.main(["x86", "encoder", "--out", str(tmp_path)]) == 0
    rows = json.loads(path.read_text())["features"]
    assert (rows["encoder"]["machine"], rows["trunk"]["machine"]) == ({"cpu": "this one"}, {"cpu": "an older one"})
