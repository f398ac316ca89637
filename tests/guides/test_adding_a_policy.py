"""docs/adding-a-policy.md, followed literally: its blocks are run as they stand."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import policy_cases
import pytest
from guide_page import blocks, load

from edge_runtime import policy as policies
from edge_runtime.__main__ import main

REPO = Path(__file__).parents[2]


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Steps 1 to 3: the file, its entry in POLICIES, its entry in NEUTRAL. Returns the block of step 4."""
    source, entry, neutral, by_hand = blocks("adding-a-policy.md")
    file = tmp_path / "thrifty.py"
    file.write_text(source)
    names = {"Registered": policies.Registered, "thrifty": load(file, "thrifty")}
    for key, value in eval(f"{{{entry.strip()}}}", names).items():
        monkeypatch.setitem(policies.POLICIES, key, value)
    for key, value in eval(f"{{{neutral.strip()}}}").items():
        monkeypatch.setitem(policy_cases.NEUTRAL, key, value)
    return by_hand


def test_the_file_passes_the_linter(tmp_path):
    file = tmp_path / "thrifty.py"
    file.write_text(blocks("adding-a-policy.md")[0])
    settings = ["--config", str(REPO / "pyproject.toml")]
    for command in (["format", "--check"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *settings, str(file)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_neutral_parameters_change_nothing(page):
    neutral = load(REPO / "tests/unit/test_neutral_policies.py", "neutral_policies")
    neutral.test_every_policy_has_neutral_parameters()
    neutral.test_neutral_parameters_change_nothing(name="thrifty")


def test_the_example_by_hand_is_right(page):
    names = vars(load(REPO / "tests/unit/test_policies_by_hand.py", "policies_by_hand"))
    exec(page, names)
    names["test_thrifty_drops_what_is_light_and_missing"]()


WITH_THE_POLICY = """
import runpy, sys
file, entry, tool, *arguments = sys.argv[1:]
sys.path[:0] = [tool.rpartition("/")[0], file.rpartition("/")[0]]
import thrifty
from edge_runtime.policy import POLICIES, Registered
POLICIES.update(eval("{" + entry + "}"))
sys.argv = [tool, *arguments]
runpy.run_path(tool, run_name="__main__")
"""


def test_the_commands_of_step_5_document_it(tmp_path):
    """Run on a copy of what they read and write: pages that are as they were before are out of date, and then are not."""
    source, entry, *_ = blocks("adding-a-policy.md")
    (tmp_path / "thrifty.py").write_text(source)
    copy = tmp_path / "copy"
    for folder in ("tools", "docs", "profiles", "completions", "man", "edge_runtime/config"):
        shutil.copytree(REPO / folder, copy / folder)
    commands = [line.split()[2:] for line in blocks("adding-a-policy.md", "console")[0].splitlines()]
    assert [path for path, *_ in commands] == ["tools/policy_table.py", "tools/options_table.py"]
    for path, *arguments in commands:
        follow = [sys.executable, "-c", WITH_THE_POLICY, str(tmp_path / "thrifty.py"), entry.strip(), str(copy / path)]
        codes = [
            subprocess.run([*follow, *arguments, *more], check=False).returncode
            for more in (["--check"], [], ["--check"])
        ]
        assert codes == [1, 0, 0], path
    assert "| `thrifty` | `tail` | `1` | from 0 |" in (copy / "docs/policies.md").read_text()
    assert "light experts only if resident" in (copy / "docs/options.md").read_text()
    assert '    "thrifty",\n' in (copy / "edge_runtime/config/registered.py").read_text()


def test_the_commands_run_with_it(page, model_bundle, tmp_path, capsys):
    text = tmp_path / "notes.txt"
    text.write_text("import os\n\n\nclass Reader:\n    def read(self):\n        return 1\n" * 8)
    lines = blocks("adding-a-policy.md", "console")[1].splitlines()
    reports = {}
    for line in lines:
        words = [
            str(model_bundle) if w == "BUNDLE" else str(text) if w == "notes.txt" else w for w in shlex.split(line)
        ]
        assert words[:2] == ["$", "hobbit"]
        extra = ["--max-tokens", "16"] if words[2] == "run" else ["--tokens", "32"]
        extra += ["--tier", "8", "--context", "128", "--memory", "1GiB", "--no-self-check", "--json"]
        assert main([*words[2:], *extra]) == 0
        reports[words[2]] = json.loads(capsys.readouterr().out)
    assert reports["run"]["policy"] == {"name": "thrifty", "params": {"tail": 2}}
    assert reports["run"]["experts"]["skipped"] > 0
    assert reports["eval"]["quality"]["kld_mean"] > 0
