"""Processes of our own program are found where their parent's modules are, whatever the working folder holds."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from conftest import REPO

from edge_runtime.base.children import module_command

BY_PATH = {"cuda.gpu_check": "of the checkout's tests, which the bring-up puts on PYTHONPATH", "pip": "not ours"}


@pytest.fixture
def decoy(tmp_path):
    """A working folder with a package of our name that does not load, and a library's name that is somebody's file."""
    for name in ("edge_runtime/__init__.py", "argparse.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit(41)\n")
    return tmp_path


def ended(command, folder):
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_module_is_not_taken_from_the_working_folder(decoy):
    assert ended([sys.executable, "-m", "edge_runtime", "help", "run"], decoy).returncode == 41
    done = ended(module_command("edge_runtime", "help", "run"), decoy)
    assert done.returncode == 0, done.stderr
    assert "--prompt" in done.stdout


def test_a_process_is_told_what_it_is_given(decoy):
    done = ended(module_command("edge_runtime", "help", "no verb"), decoy)
    assert done.returncode == 2
    assert "no verb" in done.stderr


def started_with_m(path):
    """The modules that a file starts with `sys.executable -m`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.List, ast.Tuple)):
            words = [ast.unparse(word) for word in node.elts]
            yield from (after for first, flag, after in zip(words, words[1:], words[2:], strict=False)
                        if first == "sys.executable" and flag == "'-m'")  # fmt: skip


def test_no_process_of_ours_is_looked_for_in_the_working_folder():
    files = [path for folder in ("edge_runtime", "export") for path in (REPO / folder).rglob("*.py")]
    found = {module.strip("'") for path in files for module in started_with_m(path)}
    assert found == set(BY_PATH)
