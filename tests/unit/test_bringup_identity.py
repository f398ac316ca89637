"""What the results of a bring-up belong to: those of another bundle, commit or change are not kept."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bringups import content

from edge_runtime.lab.bringup.bringup import Bringup
from edge_runtime.lab.bringup.steps import Step


def ran(wanted: Bringup, check: str = "passed") -> list[str]:
    """Bring up without running anything; return the steps that would have been run.

    Args:
        wanted: the bring-up.
        check: what comes of gpu-check; one that fails writes a file.
    """
    names = []

    def run(step: Step, out: Path, *_: Any) -> dict[str, Any]:
        names.append(step.name)
        if step.name == "gpu-check" and check == "failed":
            (out / step.folder).mkdir()
            (out / step.folder / "gpu_check_Orin.json").write_text('{"device": "Orin"}')
        return {"outcome": check if step.name == "gpu-check" else "passed"}

    wanted.run(lambda step, result: None, lambda step: None, run)
    return names


class Tree:
    """A checkout with a source file."""

    def __init__(self, root: Path) -> None:
        self.root, self.source = root, root / "source.py"
        (root / "tests/cuda").mkdir(parents=True)
        (root / "tests/cuda/gpu_check.py").write_text("1")
        self.git("init", "-q")
        self.commit("1")

    def git(self, *words: str) -> None:
        subprocess.run(["git", "-C", str(self.root), "-c", "user.name=a", "-c", "user.email=a@b.c", *words], check=True)

    def commit(self, text: str) -> None:
        self.source.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-qm", text)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    if shutil.which("git") is None:
        pytest.skip("no git: what another commit measured was NOT told apart")
    return Tree(tmp_path / "tree")


def test_results_of_another_bundle_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bundles = iter("ab")
    monkeypatch.setattr(Bringup, "identity", lambda self: {"bundle": next(bundles)})
    for _ in range(2):
        assert ran(Bringup(None, tmp_path))[:3] == ["doctor", "demo", "gpu-check"]


def test_results_of_another_commit_do_not_count(tree: Tree, tmp_path: Path):
    wanted = Bringup(None, tmp_path / "out", checkout=tree.root)
    first = ran(wanted)
    (tree.root / "notes.txt").write_text("of the owner")
    assert (len(first) > 3, ran(wanted)) == (True, [])
    about = content(tmp_path / "out")["about"]
    assert (len(about["commit"]), about["changed"]) == (12, False)
    tree.commit("2")
    assert ran(wanted) == first, "after git pull"


def test_results_of_before_a_change_do_not_count(tree: Tree, tmp_path: Path):
    (tree.root / "benchmarks/results").mkdir(parents=True)
    result = tree.root / "benchmarks/results/gpu.json"
    result.write_text("{}")
    tree.commit("2")
    wanted = Bringup(None, tmp_path / "out", checkout=tree.root)
    first = ran(wanted)
    for data in (b"3", b"4", b"\0" * 9000, b"\0" * 8999 + b"1"):
        tree.source.write_bytes(data)
        assert ran(wanted) == first, data[-1:]
        assert ran(wanted) == []
        assert content(tmp_path / "out")["about"]["changed"] is True
    result.write_text('{"device": "Orin"}')
    assert ran(wanted) == [], "results are no sources"
    tree.source.write_text("2")
    assert ran(wanted) == first, "taken back"


def test_a_file_of_gpu_check_is_of_the_tree_it_checked(tree: Tree, tmp_path: Path):
    out = tmp_path / "out"
    wanted = Bringup(None, out, checkout=tree.root)
    ran(wanted, "failed")
    assert content(out)["gpu_check"] == {"device": "Orin"}
    ran(Bringup(None, out, minutes=1e-9, checkout=tree.root))
    assert content(out)["gpu_check"] == {"device": "Orin"}, "it was not reached, and the tree is the same"
    tree.commit("2")
    ran(Bringup(None, out, minutes=1e-9, checkout=tree.root))
    assert content(out)["gpu_check"] is None, "it was not reached"
    ran(Bringup(None, out, checkout=tmp_path / "none"), "not available")
    assert (out / "gpu-check/gpu_check_Orin.json").exists()
    assert content(out)["gpu_check"] is None, "it could not be run"
