"""docs/adding-a-policy.md, followed literally: a copy of the sources gets its blocks where the page says."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO
from fuzz.sanitize import SITECUSTOMIZE
from guide_page import blocks

PAGE = "adding-a-policy.md"
COPIED = ("edge_runtime", "tools", "docs", "profiles", "completions", "man")
TESTS = ("test_neutral_policies.py", "test_policies_by_hand.py", "test_policy_capabilities.py")


def put(path: Path, behind: str, block: str) -> None:
    """Put a block behind the only line of a file that is so."""
    text = path.read_text()
    assert text.count(f"\n{behind}\n") == 1, behind
    path.write_text(text.replace(f"\n{behind}\n", f"\n{behind}\n{block}"))


def change(path: Path, diff: str) -> None:
    """Put in the lines a diff adds, at the only place in a file that is as its other lines say."""
    lines = diff.splitlines(keepends=True)
    assert {line[0] for line in lines} == {" ", "+"}
    before = "".join(line[1:] for line in lines if line[0] == " ")
    text = path.read_text()
    assert text.count(before) == 1, before
    path.write_text(text.replace(before, "".join(line[1:] for line in lines)))


def copy_sources(folder: Path) -> None:
    """Copy what the page edits and runs, with the native modules that are in use."""
    for name in COPIED:
        shutil.copytree(REPO / name, folder / name, ignore=shutil.ignore_patterns("src", "__pycache__"))
    for stub in (REPO / "edge_runtime").rglob("_native.pyi"):
        package = stub.parent.relative_to(REPO)
        found = importlib.util.find_spec(".".join([*package.parts, "_native"]))
        assert found is not None
        assert found.origin is not None
        shutil.copy(found.origin, folder / package)
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    (folder / "tests/unit").mkdir(parents=True)
    for path in ("pyproject.toml", "tests/conftest.py", "tests/policy_cases.py", *(f"tests/unit/{t}" for t in TESTS)):
        shutil.copy(REPO / path, folder / path)


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the sources behind steps 1 to 4."""
    source, entry, neutral, by_hand = blocks(PAGE)
    (imported,) = blocks(PAGE, "diff")
    folder = tmp_path / "copy"
    copy_sources(folder)
    (folder / "edge_runtime/policy/thrifty.py").write_text(source)
    registry = folder / "edge_runtime/policy/__init__.py"
    change(registry, imported)
    put(registry, "POLICIES: dict[str, Registered] = {", entry)
    put(folder / "tests/policy_cases.py", "NEUTRAL = {", neutral)
    tests = folder / "tests/unit/test_policies_by_hand.py"
    tests.write_text(f"{tests.read_text()}\n\n{by_hand}")
    return folder


def run(copy: Path, *words: str, codes: tuple[int, ...] = (0,)) -> str:
    """Run Python in the copy, which stands in for what is installed; return what it wrote."""
    environment = {**os.environ, "PYTHONPATH": f"{copy}:{REPO / 'export'}", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *words], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in codes, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_what_was_edited_passes_the_linter(copy):
    for command in (["format", "--check"], ["check"]):
        run(copy, "-m", "ruff", *command, "--no-cache", "edge_runtime/policy", "tests/policy_cases.py", "tests/unit")


def test_the_tests_hold_it_to_what_it_says(copy):
    """Its neutral parameters, its example by hand, and what it says of residency and history."""
    tests = [f"tests/unit/{name}" for name in TESTS]
    options = ["-p", "no:cacheprovider", f"--basetemp={copy.parent / 'run'}", "-v", "-k", "thrifty or every_policy"]
    out = run(copy, "-m", "pytest", *options, *tests)
    passed = set(re.findall(r"::(\w+(?:\[[^\]]*\])?) PASSED", out))
    assert passed >= {
        "test_every_policy_has_neutral_parameters",
        "test_neutral_parameters_change_nothing[thrifty]",
        "test_thrifty_drops_what_is_light_and_missing",
        "test_what_keeps_no_history_decides_alike_whatever_came_before[thrifty]",
        "test_nothing_is_claimed_that_is_not_so[thrifty]",
    }


def test_the_commands_of_step_5_document_it(copy, model_bundle):
    """Pages that are as they were before are out of date, and then are not; help names it from then on."""
    commands = [line.split()[2:] for line in blocks(PAGE, "console")[0].splitlines()]
    assert [path for path, *_ in commands] == ["tools/policy_table.py", "tools/options_table.py"]
    mistyped = ["run", str(model_bundle), "--prompt", "x", "--policy", "thrift"]
    wrong = run(copy, "-m", "edge_runtime", *mistyped, codes=(78,))
    assert "Did you mean 'thrifty'" in wrong, "error messages name it before"
    assert "thrifty" not in run(copy, "-m", "edge_runtime", "run", "--help")
    for words in commands:
        run(copy, *words, "--check", codes=(1,))
        run(copy, *words)
        run(copy, *words, "--check")
    assert "thrifty" in run(copy, "-m", "edge_runtime", "run", "--help")
    assert "| `thrifty` | `tail` | `1` | from 0 |" in (copy / "docs/policies.md").read_text()
    assert "light experts only if resident" in (copy / "docs/options.md").read_text()


def test_the_commands_run_with_it(copy, model_bundle):
    (copy / "notes.txt").write_text("import os\n\n\nclass Reader:\n    def read(self):\n        return 1\n" * 8)
    reports = {}
    for line in blocks(PAGE, "console")[1].splitlines():
        words = [str(model_bundle) if word == "BUNDLE" else word for word in shlex.split(line)]
        assert words[:2] == ["$", "hobbit"]
        extra = ["--max-tokens", "16"] if words[2] == "run" else ["--tokens", "32"]
        extra += ["--tier", "8", "--context", "128", "--memory", "1GiB", "--no-self-check", "--json"]
        reports[words[2]] = json.loads(run(copy, "-m", "edge_runtime", *words[2:], *extra).splitlines()[-1])
    assert reports["run"]["policy"] == {"name": "thrifty", "params": {"tail": 2}}
    assert reports["run"]["experts"]["skipped"] > 0
    assert reports["eval"]["quality"]["kld_mean"] > 0
