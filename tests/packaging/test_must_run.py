"""What a check cannot run here counts as failed, unless it is named: nothing that did not happen passes."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from conftest import REPO

EACH = REPO / "tests/installed/each.sh"
SKIPPED = """
import pytest

def test_runs():
    pass

@pytest.mark.parametrize("of", [1, 2])
def test_lacks(of):
    pytest.skip("no such machine here")

@pytest.mark.skipif(True, reason="never here")
def test_marked():
    pass
"""


def pytest_said(folder, **environ):
    """Run the tests above as make's targets run tests."""
    (folder / "test_some.py").write_text(SKIPPED)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", str(folder)]
    env = {name: value for name, value in os.environ.items() if name not in ("MUST_RUN", "MAY_MISS")}
    env |= {"PYTHONPATH": str(REPO / "tests"), **environ}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=env)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("environ", "code", "counted"),
    [
        ({}, 0, "1 passed, 3 skipped"),
        ({"MUST_RUN": "1"}, 1, "2 failed, 1 passed, 1 error"),
        ({"MUST_RUN": "1", "MAY_MISS": "test_marked test_lacks"}, 0, "1 passed, 3 skipped"),
        ({"MUST_RUN": "1", "MAY_MISS": "test_marked"}, 1, "2 failed, 1 passed, 1 skipped"),
    ],
    ids=["anywhere", "must", "named", "one-named"],
)
def test_a_skipped_test_fails_where_it_has_to_run(tmp_path, environ, code, counted):
    found, said = pytest_said(tmp_path, **environ)
    assert (found, counted in said) == (code, True), said
    if "failed" in counted:
        assert "no such machine here" in said
        assert "MAY_MISS=test_lacks" in said


def each(lines, code, may_miss=""):
    """Run a check for each line; it ends with 0 for those named well, else with the code."""
    script = f'echo "ran $*"; case $1 in well*) ;; *) exit {code} ;; esac'
    command = ["bash", str(EACH), "some-check", "bash", "-c", script, "-"]
    done = subprocess.run(
        command, input=lines, capture_output=True, text=True, check=False, env={**os.environ, "MAY_MISS": may_miss}
    )
    return done.returncode, done.stdout, done.stderr


def test_checks_are_counted():
    assert each("well:1 a b\nwell:2\n", 1) == (0, "ran well:1 a b\nran well:2\nsome-check: 2 passed, 0 NOT RUN\n", "")


def test_what_was_not_run_fails_by_name():
    code, said, why = each("well x\nill y\nwell z\n", 2)
    assert (code, said.splitlines()[-1]) == (1, "some-check: 2 passed, 1 NOT RUN: ill")
    assert 'make some-check MAY_MISS="ill"' in why
    assert each("well x\nill y\n", 2, may_miss="other ill")[0] == 0
    assert "nothing was run" in each("ill y\n", 2, may_miss="ill")[2]
    assert each("ill y\n", 2, may_miss="ill")[0] == 1


def test_what_failed_cannot_be_named():
    code, said, why = each("ill y\nwell x\n", 1, may_miss="ill")
    assert (code, said, why) == (1, "ran ill y\n", "some-check: FAILED for ill\n")


def test_a_supported_python_that_is_not_here_is_named(tmp_path):
    command = ["bash", str(EACH), "pythons-check", "bash", str(REPO / "tests/installed/pythons.sh")]
    environ = {**os.environ, "MAY_MISS": ""}
    lines = f"9.99 {tmp_path}/none.tar.gz\n"
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False, env=environ)
    assert (done.returncode, done.stdout) == (1, "pythons-check: 0 passed, 1 NOT RUN: 9.99\n")
    assert "pythons-check: NOT RUN: 9.99: no python9.99 runs here." in done.stderr
    assert 'make pythons-check MAY_MISS="9.99"' in done.stderr


def test_every_target_of_checks_has_to_run():
    """No recipe passes over a script's 2, and what boots machines is told that it has to."""
    text = (REPO / "Makefile").read_text()
    assert "= 2 ]" not in text
    assert "|| true" not in text
    for recipe in re.findall(r"^\t.*pytest.*$", text.replace("\\\n", ""), re.MULTILINE):
        if re.search(r"-m (system|ray|planted|emulation) |test_cgroup_shares|test_linted", f"{recipe} "):
            assert "$(MUST_RUN)" in recipe, recipe
    for script in (
        "tests/arm/run.sh",
        "tests/containers/check.sh",
        "tests/debian/release.sh",
        "tests/installed/check.sh",
        "tests/installed/pythons.sh",
    ):
        lines = (REPO / script).read_text()
        body = lines.partition("not_run() {")[2].partition("}")[0]
        assert re.search(r"NOT RUN.*\n *exit 2$", body.strip("\n"), re.MULTILINE), script


def test_what_may_be_missed_unasked_is_what_an_extra_brings():
    (names,) = re.findall(r"^OF_AN_EXTRA := (.*)$", (REPO / "Makefile").read_text(), re.MULTILINE)
    of_the_extra = (REPO / "tests/cuda/test_tensorrt_rtx.py").read_text()
    assert "tensorrt-check" in of_the_extra
    assert names.split() == re.findall(r"^def (test_\w+)", of_the_extra, re.MULTILINE)


def test_bindings_that_were_not_fetched_are_fetched_the_next_time(tmp_path):
    (bindings,) = re.findall(r"^BINDINGS := (.*)$", (REPO / "Makefile").read_text(), re.MULTILINE)
    command = ["make", "-C", str(tmp_path), "-f", str(REPO / "Makefile"), "PY=false", *bindings.split()]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.count("false -m pip install")) == (0, 2), done.stderr
