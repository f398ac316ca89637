"""The release workflow, read as a runner would: targets there are, root where it is needed, a Python to begin with."""

from __future__ import annotations

import re
import sys

import pytest
import yaml
from conftest import REPO

sys.path.insert(0, str(REPO / "tools/release"))

import check
import common
import contained
import footprint
import locks

MAKEFILE = (REPO / "Makefile").read_text()
WORKFLOW = yaml.safe_load((REPO / ".github/workflows/release.yml").read_text())


def recipe(target: str) -> str:
    """What make runs for a target itself."""
    (found,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)*)", MAKEFILE, re.MULTILINE)
    return found


def needs_root(target: str) -> bool:
    """Whether a target, or a script it starts, makes namespaces, asks who it is, or boots a machine."""
    text = recipe(target)
    scripts = [(REPO / name).read_text() for name in re.findall(r"tests/\w+/\w+\.sh", text)]
    return "-m system" in text or any(re.search(r"^[^#]*(unshare|\$\(id -u\))", each, re.MULTILINE) for each in scripts)


def steps(job: str) -> list[str]:
    """The commands of a job's steps."""
    return [step.get("run", "") for step in WORKFLOW["jobs"][job]["steps"]]


def called(job: str) -> list[tuple[str, str, str]]:
    """The calls of make in a job: what stands before it, the target, what stands behind."""
    return re.findall(r"(.*)\bmake ([a-z-]+)(.*)", "\n".join(steps(job)))


def test_the_workflow_calls_targets_there_are():
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    found = {target for job in WORKFLOW["jobs"] for _, target, _ in called(job)}
    assert found >= {
        "wheels", "offline", "wheel-check", "extras-check", "test", "deb", "deb-release-check", "release-check",
        "jetpack-check", "container-check", "jetpack-container-check", "ray-check", "lint-release",
        "footprint-check",
    }  # fmt: skip
    assert found <= targets
    for job, release in (("wheels", "22.04"), ("packages", "24.04")):
        runners = {row["runner"] for row in WORKFLOW["jobs"][job]["strategy"]["matrix"]["include"]}
        assert runners == {f"ubuntu-{release}", f"ubuntu-{release}-arm"}
    made = " ".join(row["targets"] for row in WORKFLOW["jobs"]["wheels"]["strategy"]["matrix"]["include"]).split()
    assert sorted(made) == sorted(common.TARGETS), "before the jobs that install them"
    boards = {row["target"]: row["runner"] for row in WORKFLOW["jobs"]["boards"]["strategy"]["matrix"]["include"]}
    assert boards == {"jetpack-6.2": "ubuntu-22.04-arm", "jetpack-7.2": "ubuntu-24.04-arm"}
    suites = WORKFLOW["jobs"]["packages"]["env"]["SUITES"]
    assert {word.partition(":")[0] for word in suites.split() if ":" in word} == set(contained.DEBIAN_RELEASES)
    assert {*WORKFLOW["jobs"]["release"]["needs"]} == {*WORKFLOW["jobs"]} - {"release"}


def test_it_is_seen_which_targets_need_root():
    targets = re.findall(r"^([a-z0-9-]+-check):", MAKEFILE, re.MULTILINE)
    assert {target for target in targets if needs_root(target)} == {
        "wheel-check", "jetpack-check", "extras-check", "pythons-check", "deb-check", "deb-release-check", "arm-check",
        "container-check", "jetpack-container-check", "system-check", "elastic-check",
    }  # fmt: skip


def test_every_supported_python_is_asked_for():
    """One that a machine lacks is named as not run, so it has to be asked for there."""
    (line,) = re.findall(r"^PYTHONS \?= (.*)$", MAKEFILE, re.MULTILINE)
    stated = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (REPO / "pyproject.toml").read_text())
    native = WORKFLOW["jobs"]["pythons"]["strategy"]["matrix"]["python"]
    assert line.split() == stated == native == [*common.PYTHONS]
    assert "$(PYTHONS)" in recipe("pythons-check")


def table_of_targets() -> dict[str, str]:
    """The targets that docs/releasing.md lists, with what each needs."""
    page = (REPO / "docs/releasing.md").read_text()
    return dict(re.findall(r"^\| `make ([a-z-]+)` \|.*\| ([^|]*) \|$", page, re.MULTILINE))


def test_the_page_lists_every_check_or_says_that_it_is_not_of_a_release():
    (aside,) = re.findall(
        r"^Not of a release: (.*?)\n\n", (REPO / "docs/releasing.md").read_text(), re.MULTILINE | re.DOTALL
    )
    checks = set(re.findall(r"^([a-z0-9-]+-check):", MAKEFILE, re.MULTILINE))
    listed, others = {*table_of_targets()} & checks, {*re.findall(r"`make ([a-z0-9-]+)`", aside)}
    assert listed | others == checks
    assert listed & others == set()


@pytest.mark.parametrize("job", WORKFLOW["jobs"])
def test_what_needs_root_has_it_and_the_environment_of_the_steps_before(job):
    """Without root such a check says that nothing was run, and fails."""
    for before, target, behind in called(job):
        if needs_root(target):
            assert before.strip().endswith("sudo"), target
            assert " VENV=.venv" in behind, target
        else:
            assert "sudo" not in before, f"{target}: what it writes would be root's"
    for step in steps(job):
        assert re.findall(r"^(?!.*sudo unshare).*unshare.*$", step, re.MULTILINE) == []


@pytest.mark.parametrize("job", WORKFLOW["jobs"])
def test_who_calls_make_has_a_python_that_makes_environments(job):
    given = WORKFLOW["jobs"][job]["steps"]
    makes = [number for number, step in enumerate(given) if re.search(r"\bmake [a-z]", step.get("run", ""))]
    brings = [
        number
        for number, step in enumerate(given)
        if "python3-venv" in step.get("run", "") or "setup-python" in step.get("uses", "")
    ]
    assert not makes or min(brings, default=len(given)) < makes[0]


def test_the_page_says_which_targets_need_root():
    needs = table_of_targets()
    assert {"extras-check", "pythons-check", "wheel-check", "deb"} <= needs.keys()
    assert [target for target, words in needs.items() if needs_root(target) != ("root" in words)] == []


def test_the_sizes_listed_are_compared_before_a_release():
    (parts,) = re.findall(r"^release: (.*)$", MAKEFILE, re.MULTILINE)
    order = parts.split()
    assert order.index("offline") < order.index("footprint-check") < order.index("release-check")
    (job,) = [job for job in WORKFLOW["jobs"] if "footprint-check" in [target for _, target, _ in called(job)]]
    (pythons,) = [
        step["with"]["python-version"]
        for step in WORKFLOW["jobs"][job]["steps"]
        if "python-version" in step.get("with", {})
    ]
    assert {*pythons.split()} == {*footprint.SHOWN.values()}


def test_a_workflow_knows_that_it_publishes(monkeypatch):
    monkeypatch.setenv("GITHUB_REF_NAME", "main")
    monkeypatch.setenv("GITHUB_REF_TYPE", "branch")
    assert check.tag_of_workflow() is None
    monkeypatch.setenv("GITHUB_REF_NAME", "v1.2.3")
    monkeypatch.setenv("GITHUB_REF_TYPE", "tag")
    assert check.tag_of_workflow() == "v1.2.3"
    (publish,) = [step for step in steps("release") if "gh release create" in step]
    assert publish.index("test -s dist/SHA256SUMS.sig") < publish.index("gh release create")


def test_every_lock_is_held_to_a_database_of_vulnerabilities():
    (audit,) = [step for job in WORKFLOW["jobs"] for step in steps(job) if "pip-audit --" in step]
    (pattern,) = re.findall(r"for lock in (\S+); do", audit)
    assert {*REPO.glob(pattern)} == {*locks.LOCKS.glob("*.txt")}
