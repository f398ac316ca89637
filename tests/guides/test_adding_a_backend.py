"""docs/adding-a-backend.md, followed literally: its package is installed beside this one and its commands are run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import REPO
from guide_page import DOCS, blocks
from late_backend.installed import offer


@pytest.fixture
def installed(tmp_path) -> dict[str, str]:
    """The files of steps 1 to 3 under the names the page gives them, and the entry point of step 4."""
    text = (DOCS / "adding-a-backend.md").read_text()
    files = re.findall(r"^`(twin_backend/\w+\.py)`:$", text, re.MULTILINE)
    sources = blocks("adding-a-backend.md")
    assert len(files) == len(sources) == 3
    for file, source in zip(files, sources, strict=True):
        path = tmp_path / "src" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    (entry,) = blocks("adding-a-backend.md", "toml")
    group, name, make = re.fullmatch(r'\[project\.entry-points\."(\S+)"\]\n(\w+) = "(\S+)"\n', entry).groups()
    return offer(tmp_path / "site", name, make, tmp_path / "src", group=group)


def commands() -> list[list[str]]:
    consoles = blocks("adding-a-backend.md", "console")
    return [shlex.split(line.removeprefix("$ ")) for console in consoles for line in console.splitlines()]


def run(words: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=REPO, env={**os.environ, **env})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_package_passes_the_linter(installed, tmp_path):
    settings = ["--config", str(REPO / "pyproject.toml")]
    for command in (["format", "--check"], ["check"]):
        run([sys.executable, "-m", "ruff", *command, *settings, str(tmp_path / "src")], {})


CHECKED = """
import numpy as np
from numpy.typing import NDArray
from edge_runtime.base.arrays import F32
from edge_runtime.backends.base import Backend, BackendOptions
from twin_backend import make

backend: Backend[F32] = make(BackendOptions())
"""


def test_the_type_checker_finds_every_protocol_in_it(installed, tmp_path):
    (tmp_path / "checked.py").write_text(CHECKED)
    path = {"MYPYPATH": os.pathsep.join(["export", str(tmp_path / "src")])}
    files = [str(tmp_path / "checked.py"), *map(str, (tmp_path / "src").rglob("*.py"))]
    run([sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), *files], path)


def test_it_holds_what_backends_promise(installed):
    (words,) = (words for words in commands() if words[0] == "python")
    out = run([sys.executable, *words[1:], "-q", "-p", "no:cacheprovider"], installed)
    assert re.search(r"^\d+ passed", out, re.MULTILINE)
    assert "skipped" not in out


def test_the_commands_run_with_it(installed, model_bundle):
    reports = {}
    for words in commands():
        if words[0] == "hobbit":
            words = [str(model_bundle) if word == "BUNDLE" else word for word in words[1:]]
            more = ["--max-tokens", "6", "--tier", "4", "--no-self-check"] if words[0] == "run" else []
            command = [sys.executable, "-m", "edge_runtime", *words, *more, "--context", "128", "--json"]
            reports[words[0]] = json.loads(run(command, installed))
    assert reports["run"]["backend"] == "twin"
    assert reports["run"]["experts"]["misses"] > 0
    assert reports["plan"]
