"""What a release is made of, as far as it can be checked without building one: `make release-check` does the rest."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest
from conftest import REPO

sys.path.insert(0, str(REPO / "tools/release"))

import check
import common
import locks
import offline
import sbom
from licences import is_permitted

DEPLOY = REPO / "deploy"


def run(*command, cwd=None, env=None):
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **(env or {})},
    )


def test_the_version_is_in_one_place():
    check.check_version()
    assert run(sys.executable, REPO / "tools/release/common.py").stdout.strip() == common.version()


@pytest.mark.parametrize(
    ("name", "is_refused"),
    [
        ("deploy/containers/cpu.Dockerfile", True), ("deploy/containers/compose.yaml", True), ("CMakeLists.txt", True),
        ("export/tool.toml", True), ("edge_runtime/service/page.json", True), ("systemd/hobbit.socket", True),
        ("Makefile", True), ("docs/operations.md", True), ("edge_runtime/x.py", True), ("man/hobbit.1", True),
        ("deploy/locks/all-3.10.txt", False), ("benchmarks/results/x.jsonl", False), ("tests/old_builds/x", False),
    ],
)  # fmt: skip
def test_a_version_that_stands_elsewhere_is_found(tmp_path, monkeypatch, name, is_refused):
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "version", lambda: "1.2.3")
    (tmp_path / "CHANGELOG.md").write_text("## [1.2.3] - 2026-12-01\n")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    with (tmp_path / name).open("ab") as file:
        file.write(b"\xff 11.2.3 1.2.34 1.2.3.4\n")
    assert run("git", "init", "--quiet", tmp_path).returncode == 0
    assert run("git", "-C", tmp_path, "add", ".").returncode == 0
    check.check_version()
    with (tmp_path / name).open("ab") as file:
        file.write(b"version: 1.2.3\n")
    if not is_refused:
        return check.check_version()
    with pytest.raises(common.Failed, match=rf"expected in pyproject.toml alone, found in {re.escape(name)}$"):
        check.check_version()


def test_every_file_that_may_name_a_version_is_there():
    assert [name for name in check.MAY_NAME_A_VERSION if not (REPO / name).exists()] == []


def test_every_python_has_locks_without_known_faults():
    check.check_libraries()
    for python in common.PYTHONS:
        device = {(each.name, each.version) for each in locks.read(locks.LOCKS / f"device-{python}.txt")}
        every = {(each.name, each.version) for each in locks.read(locks.LOCKS / f"all-{python}.txt")}
        assert device < every, f"{python}: what a device installs is part of everything, in the same versions"
        assert not {name for name, _ in every} & {"torch", "jetson-stats", "ray", "lm-eval"}
    (pip,) = locks.read(locks.LOCKS / "pip.txt")
    assert pip.name == "pip"


def test_a_vulnerable_or_unwelcome_library_is_refused(tmp_path, monkeypatch):
    good = (locks.LOCKS / "device-3.12.txt").read_text()
    for bad in (re.sub(r"jinja2==[\d.]+", "jinja2==3.1.5", good), re.sub(r"(jinja2==.*  # ).*", r"\1AGPL-3.0", good)):
        assert bad != good
        monkeypatch.setattr(check, "LOCKS", tmp_path)
        for name in locks.SETS:
            for python in common.PYTHONS:
                (tmp_path / f"{name}-{python}.txt").write_text(bad)
        with pytest.raises(common.Failed, match="jinja2"):
            check.check_libraries()


@pytest.mark.parametrize(
    ("licence", "permitted"),
    [("MIT", True), ("Apache-2.0", True), ("BSD-3-Clause AND MIT", True), ("MPL-2.0", True), ("AGPL-3.0", False),
     ("GNU Lesser General Public License v3 (LGPLv3)", False), ("NVIDIA Proprietary Software", False), ("not stated", False),
     ("Apache Software License AND BSD License", True), ("MIT License AND Other/Proprietary License", False),
     ("Apache-2.0 WITH LLVM-exception", True), ("GPL-2.0-only WITH Classpath-exception-2.0", False),
     ("MIT OR GPL-3.0-only", True), ("MIT AND (BSD-3-Clause OR SSPL-1.0)", True), ("(MIT OR ISC) AND SSPL-1.0", False),
     ("Limited use EULA", False), ("MIT AND SSPL-1.0", False), ("Apache-2.0 AND LicenseRef-Commercial", False),
     ("Miscellaneous", False), ("MIT AND", False), ("", False), ("Permitted for research", False)],
)  # fmt: skip
def test_licences_that_may_come_along(licence, permitted):
    assert is_permitted(licence) is permitted


def test_the_agpl_library_is_an_extra_nothing_else_asks_for():
    text = (REPO / "pyproject.toml").read_text()
    assert len(re.findall("jetson-stats", text)) == 1
    (everything,) = re.findall(r'^all = \["hobbit-edge\[(.*)\]"\]$', text, re.MULTILINE)
    assert set(everything.split(",")) == {"bench", "export", "gguf", "hub", "serve"}


def test_each_floor_says_where_it_is_from():
    lines = [line for line in (DEPLOY / "floors.txt").read_text().splitlines() if not line.startswith("#")]
    assert [
        line for line in lines if not re.fullmatch(r"[\w-]+>=[\d.]+  # CVE-\d{4}-\d+( (GHSA|PYSEC)-[\w-]+)?", line)
    ] == []
    assert len(check.floors()) == len(lines) == len({line.partition(">")[0] for line in lines})


def test_a_requirement_that_takes_something_vulnerable_is_refused():
    check.check_requirements(["starlette>=1.3.1", "numpy>=1.26", "rich>=13", 'onnx>=1.21; extra == "export"'])
    for bad in ("starlette>=1.3.0", "jinja2", 'ray>=2.40; extra == "ray"', "urllib3<3"):
        with pytest.raises(common.Failed, match="have a known vulnerability"):
            check.check_requirements([bad])


def test_what_pyproject_asks_for_is_above_the_floors():
    text = (REPO / "pyproject.toml").read_text()
    block = text[text.index("\ndependencies = ") : text.index("\n[project.scripts]")]
    asked = [each for each in re.findall(r'"([^"]+)"', block.replace("\\", "")) if not each.startswith("hobbit-edge")]
    assert len(asked) > 40
    check.check_requirements(asked)


def test_the_bill_of_materials_fits_its_schema():
    libraries = locks.read(locks.LOCKS / "device-3.12.txt")
    found = sbom.bill(libraries)
    assert [each["name"] for each in found["components"]] == [each.name for each in libraries]
    assert found == sbom.bill(libraries), "the same bytes each time"
    assert not any("scope" in each for each in found["components"])
    with_pip = sbom.bill(libraries, locks.read(locks.LOCKS / "pip.txt"))
    assert with_pip["components"][:-1] == found["components"]
    assert (with_pip["components"][-1]["name"], with_pip["components"][-1]["scope"]) == ("pip", "excluded")
    pytest.importorskip("cyclonedx", reason="cyclonedx-python-lib is not installed; the schema was NOT checked")
    import json

    sbom.validate(json.dumps(found))
    sbom.validate(json.dumps(with_pip))
    with pytest.raises(common.Failed, match=r"CycloneDX 1\.6"):
        sbom.validate(json.dumps(found | {"components": [{"name": "x"}]}))


def test_archives_have_the_same_bytes_whatever_the_clock_and_the_owner_say(tmp_path):
    written = []
    for when in (1, 10**9):
        folder = tmp_path / str(when) / "content"
        folder.mkdir(parents=True)
        for name in ("b", "a"):
            (folder / name).write_text(name)
            os.utime(folder / name, (when, when))
        (folder / "a").chmod(0o700)
        common.pack(folder, tmp_path / f"{when}.tar.gz", 1_700_000_000)
        written.append((tmp_path / f"{when}.tar.gz").read_bytes())
    assert written[0] == written[1]
    with tarfile.open(tmp_path / "1.tar.gz") as archive:
        assert [(each.name, oct(each.mode)) for each in archive][1:] == [("content/a", "0o755"), ("content/b", "0o644")]


@pytest.mark.parametrize(
    ("tag", "head", "wrong"),
    [
        ("v1.2.3", "[1.2.3] - 2026-12-01", None),
        ("v1.2.3", "[1.2.3] - unreleased", r"expected '\[1.2.3\] - YYYY-MM-DD'"),
        ("v1.2.3", "[1.2.2] - 2026-12-01", r"expected '\[1.2.3\] - YYYY-MM-DD'"),
        ("v1.2.4", "[1.2.3] - 2026-12-01", "tag v1.2.4: expected v1.2.3"),
    ],
)
def test_a_tag_is_of_this_version_and_the_changelog_has_its_date(tmp_path, monkeypatch, tag, head, wrong):
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## {head}\n\n## [1.2.3] - 2025-01-01\n")
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "version", lambda: "1.2.3")
    if wrong is None:
        return check.check_tag(tag)
    with pytest.raises(common.Failed, match=wrong):
        check.check_tag(tag)


def test_a_wheel_whose_record_lies_is_refused(tmp_path):
    wheel = tmp_path / f"hobbit_edge-{common.version()}-cp310-abi3-manylinux_2_35_x86_64.whl"
    info = f"hobbit_edge-{common.version()}.dist-info"
    files = {need if need[0] != "." else info + need.removeprefix(".dist-info"): b"" for need in check.NEEDED}
    files = {
        name.replace("data/share", f"{info.removesuffix('.dist-info')}.data/data/share"): raw
        for name, raw in files.items()
    }
    files |= {f"edge_runtime/{part}/_native.abi3.so": b"elf" for part in check.NATIVE}

    def write(record, **more):
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, raw in (files | more).items():
                archive.writestr(name, raw)
            archive.writestr(f"{info}/RECORD", record)

    write("")
    with pytest.raises(common.Failed, match="is not what RECORD says"):
        check.check_contents(wheel)
    write("", **{"tests/test_x.py": b""})
    with pytest.raises(common.Failed, match="strange"):
        check.check_contents(wheel)


def test_a_bundle_carries_what_its_pages_name(tmp_path):
    """Its owner has nothing else: no checkout, no network."""
    offline.carry(tmp_path)
    page = (tmp_path / offline.PAGE).read_text()
    links = re.findall(r"\]\(([^)#:]+)", page)
    assert len(links) > 3
    assert [link for link in links if not (tmp_path / "docs" / link).exists()] == []
    paths = re.findall(r"[\s`](?:sudo )?((?:deploy|systemd)/[\w./-]+)", page + offline.README)
    assert {"deploy/install.sh", "systemd/examples/lan.conf", "deploy/containers/cpu.Dockerfile"} <= {*paths}
    assert [path for path in paths if not (tmp_path / path).exists()] == []
    for file in (tmp_path / "deploy/containers").iterdir():
        (command,) = re.findall(r"^#   (?:MODELS=\S+ )?(docker .*)$", file.read_text(), re.MULTILINE)
        assert f"deploy/containers/{file.name}" in command, "built and started from the bundle's own folder"
        assert command.startswith("docker compose") or command.endswith(f":{file.stem} .")


def test_a_bundle_for_a_python_that_its_target_has_not_is_refused(tmp_path):
    """It would install nothing anywhere."""
    arguments = argparse.Namespace(target=["jetpack-6.2"], python=["3.11"], set="device", out=tmp_path)
    with pytest.raises(common.Failed, match=r"jetpack-6.2: expected --python 3.10, got 3.11"):
        offline.go(arguments)
    assert list(tmp_path.iterdir()) == []
