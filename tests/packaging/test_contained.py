"""`make release-check` on what lies in the folder of a release: bundles and packages of this build, and nothing else."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile

import pytest
from conftest import REPO

sys.path.insert(0, str(REPO / "tools/release"))

import check
import common
import contained
import fresh
import locks
import offline

OURS = {"edge_runtime/__init__.py": b"# ours\n", "hobbit_export/__init__.py": b"# the exporter\n"}
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb; packages were NOT checked")


def write_sdist(out, when=0):
    sdist = out / f"hobbit_edge-{common.version()}.tar.gz"
    sdist.write_bytes(gzip.compress(b"", mtime=common.epoch() + when))


def write_wheel(out, arch, content=OURS, when=0):
    wheel = out / f"hobbit_edge-{common.version()}-cp310-abi3-manylinux_2_35_{arch}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, raw in content.items():
            archive.writestr(zipfile.ZipInfo(name, time.gmtime(common.epoch() + when)[:6]), raw)
    return wheel


def write_bundle(out, target, wheel, changed=(), when=0):
    """What `make offline` writes, without libraries; `when` is in seconds after this commit."""
    name = f"hobbit-edge-{common.version()}-{target}"
    folder = out.parent / "made" / name
    (folder / "wheels").mkdir(parents=True)
    shutil.copy(wheel, folder / "wheels")
    for python in common.TARGETS[target].pythons:
        offline.write_requirements(wheel, python, locks.LOCKS / f"device-{python}.txt", "serve", folder)
    offline.write_sums(folder)
    for file in changed:
        (folder / file).write_bytes(b"evil==1\n")
    common.pack(folder, out / f"{name}.tar.gz", common.epoch() + when)
    shutil.rmtree(folder)
    return out / f"{name}.tar.gz"


def libraries_of(package, suite):
    """What the package of a release has to bring along, from the locks."""
    python = contained.DEBIAN_RELEASES[suite][0]
    device, every = (locks.read(locks.LOCKS / f"{name}-{python}.txt") for name in ("device", "all"))
    kept = {each.name for each in device}
    return [each for each in every if each.name not in kept] if "export" in package else device


def write_package(out, package, suite, arch, content=OURS, when=0, libraries=None):
    name, _ = contained.package_name(package, suite, arch)
    top = "hobbit_export/" if "export" in package else "edge_runtime/"
    root = out.parent / "made" / name
    (root / "DEBIAN").mkdir(parents=True)
    version = contained.package_version(suite)
    (root / "DEBIAN/control").write_text(
        f"Package: {package}\nVersion: {version}\nArchitecture: {arch}\nMaintainer: a <a@b>\nDescription: x\n"
    )
    libraries = libraries_of(package, suite) if libraries is None else libraries
    unpacked = {f"{each.name.replace('-', '_')}-{each.version}.dist-info/METADATA": b"" for each in libraries}
    unpacked |= {f"hobbit_edge-{common.version()}.dist-info/METADATA": b"", "other/x.py": b""}
    unpacked |= {each: raw for each, raw in content.items() if each.startswith(top)}
    lines = [
        f"{hashlib.md5(raw).hexdigest()}  opt/hobbit-edge/lib/python3.11/site-packages/{each}\n"
        for each, raw in unpacked.items()
    ]
    (root / "DEBIAN/md5sums").write_text("".join(lines))
    subprocess.run(
        ["dpkg-deb", "-z1", "--build", str(root), str(out / name)],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(common.epoch() + when)},
    )
    shutil.rmtree(root)


@pytest.fixture
def release(tmp_path):
    """A folder with a whole release of one target and one suite."""
    out = tmp_path / "dist"
    out.mkdir()
    wheels = {arch: write_wheel(out, arch) for arch in common.ARCHITECTURES}
    write_sdist(out)
    write_bundle(out, "jetpack-6.2", wheels["aarch64"])
    if shutil.which("dpkg-deb"):
        for package in ("hobbit-edge", "hobbit-edge-export"):
            write_package(out, package, "noble", "arm64")
    return out


def go(out, suites=("noble:arm64",)):
    check.check_set(out, ["jetpack-6.2"], list(suites))


@needs_dpkg
def test_a_whole_release_of_one_build_passes(release, capsys):
    pytest.importorskip("cyclonedx", reason="cyclonedx-python-lib is not installed; the bill was NOT checked")
    check.write_sbom("device", "3.12", release)
    go(release)
    assert "1 bundles and 2 packages hold these wheels" in capsys.readouterr().out


@needs_dpkg
def test_what_lies_beside_it_would_be_signed_too(release):
    stale = release / "hobbit-edge_0.0.9-1.noble1_arm64.deb"
    stale.write_bytes(b"")
    with pytest.raises(common.Failed, match=r"found hobbit-edge_0.0.9-1.noble1_arm64.deb too. Remove it"):
        go(release)
    stale.unlink()
    go(release)


@needs_dpkg
def test_bundles_and_packages_of_another_build_are_refused(release):
    write_wheel(release, "aarch64", {**OURS, "edge_runtime/__init__.py": b"# later\n"})
    with pytest.raises(common.Failed, match="jetpack-6.2.tar.gz: holds another build"):
        go(release)
    write_bundle(release, "jetpack-6.2", common.the_wheel(release, "aarch64"))
    with pytest.raises(common.Failed, match=r"hobbit-edge_.*noble1_arm64.deb: edge_runtime/__init__.py: not that of"):
        go(release)
    write_package(release, "hobbit-edge", "noble", "arm64", {"edge_runtime/__init__.py": b"# later\n"})
    go(release)


@needs_dpkg
def test_files_of_another_commit_are_refused(release):
    """Also where nothing in the wheel changed between the two: an installer, a unit or the operator's page may have."""
    wheel = common.the_wheel(release, "aarch64")
    write_sdist(release, when=-60)
    with pytest.raises(common.Failed, match=r"0.tar.gz: made of a commit of .*Run: make wheels"):
        go(release)
    write_sdist(release)
    write_wheel(release, "aarch64", when=-60)
    with pytest.raises(common.Failed, match=r"aarch64.whl: made of a commit of .*Run: make wheels"):
        go(release)
    write_wheel(release, "aarch64")
    write_bundle(release, "jetpack-6.2", wheel, when=-60)
    with pytest.raises(common.Failed, match=r"jetpack-6.2.tar.gz: made of a commit of .*Run: make offline"):
        go(release)
    write_bundle(release, "jetpack-6.2", wheel)
    write_package(release, "hobbit-edge", "noble", "arm64", when=-60)
    with pytest.raises(common.Failed, match=r"noble1_arm64.deb: made of a commit of .*Run: make deb"):
        go(release)
    write_package(release, "hobbit-edge", "noble", "arm64")
    go(release)


@needs_dpkg
@pytest.mark.parametrize("package", ["hobbit-edge", "hobbit-edge-export"])
def test_a_package_with_other_libraries_than_todays_locks_is_refused(release, package):
    (first, *rest) = libraries_of(package, "noble")
    for libraries in (rest, [*rest, dataclasses.replace(first, version="0.0.1")]):
        write_package(release, package, "noble", "arm64", libraries=libraries)
        with pytest.raises(common.Failed, match=rf"{package}_.*: .*{first.name}==.*: not as in today's locks"):
            go(release)
    write_package(release, package, "noble", "arm64")
    go(release)


@needs_dpkg
def test_what_is_missing_is_named_with_the_command(release):
    with pytest.raises(common.Failed, match=r"hobbit-edge_.*jammy1_amd64.deb is not there. Run: make deb"):
        go(release, ["jammy:amd64"])
    next(release.glob("*jetpack*")).unlink()
    with pytest.raises(common.Failed, match=r"jetpack-6.2.tar.gz is not there. Run: make offline"):
        go(release)


def test_a_bundle_that_is_not_what_it_says_is_refused(release):
    wheel = common.the_wheel(release, "aarch64")
    damaged = write_bundle(release, "jetpack-6.2", wheel, ["requirements-3.10.txt"])
    with pytest.raises(common.Failed, match="not what its SHA256SUMS says"):
        contained.check_bundle(damaged, wheel)


def test_a_bundle_of_yesterdays_locks_is_refused(release, tmp_path, monkeypatch):
    monkeypatch.setattr(contained, "LOCKS", tmp_path)
    (tmp_path / "device-3.10.txt").write_text("numpy==99 --hash=sha256:00  # BSD\n")
    with pytest.raises(common.Failed, match=r"requirements-3.10.txt is not of today's device-3.10.txt"):
        contained.check_bundle(next(release.glob("*jetpack*")), common.the_wheel(release, "aarch64"))


@needs_dpkg
def test_what_was_made_before_the_last_change_is_not_tested(release, monkeypatch, capsys):
    files = [path for path in release.iterdir() if path.name != f"hobbit_edge-{common.version()}.tar.gz"]
    assert {path.suffix for path in files} == {".whl", ".deb", ".gz"}
    monkeypatch.delenv("ANY_BUILD", raising=False)
    for path in files:
        assert abs(fresh.written(path) - common.epoch()) <= 1
        fresh.check(path)
    monkeypatch.setattr(fresh, "changed", lambda: common.epoch() + 2)
    for path in files:
        with pytest.raises(common.Failed, match=r"what goes into it has changed since.*ANY_BUILD=1"):
            fresh.check(path)
    monkeypatch.setenv("ANY_BUILD", "1")
    fresh.check(files[0])
    assert "Taken all the same" in capsys.readouterr().out
    with pytest.raises(common.Failed, match="is not there"):
        fresh.check(release / "nothing.whl")


PAGES = "[leads](metrics.md) [nowhere](#head) ![seen](picture.svg)"


@pytest.mark.parametrize(
    ("touched", "counts"),
    [
        ("edge_runtime/x.py", True), ("docs/operations.md", True), ("docs/metrics.md", True), ("docs/picture.svg", True),
        ("CHANGELOG.md", True), ("systemd/x.conf", True), ("docs/releasing.md", False), ("README.md", False),
        ("tests/test_x.py", False), ("benchmarks/x.py", False),
    ],
)  # fmt: skip
def test_a_page_that_is_carried_along_counts_and_another_does_not(tmp_path, monkeypatch, touched, counts):
    """Else a test would run today's page over yesterday's bundle."""
    monkeypatch.setattr(fresh, "ROOT", tmp_path)
    monkeypatch.setattr(offline, "ROOT", tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]

    def commit(name, text, when):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        subprocess.run([*git, "add", "."], check=True)
        env = {**os.environ, "GIT_COMMITTER_DATE": f"{when} +0000"}
        subprocess.run([*git, "commit", "--quiet", "-m", name], check=True, env=env)

    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    commit("pyproject.toml", "", 1_700_000_000)
    commit(offline.PAGE, PAGES, 1_700_000_001)
    commit(touched, f"{PAGES} changed", 1_700_000_002)
    assert fresh.changed() == 1_700_000_001 + counts


def test_only_commits_that_touch_what_is_packaged_count():
    git = ["git", "-C", str(REPO), "log", "-1", "--format=%ct", "--"]
    packaged = ("edge_runtime", "export", "deploy", "systemd", "man", "profiles", "pyproject.toml", *offline.pages())
    times = [subprocess.run([*git, name], capture_output=True, text=True, check=True).stdout for name in packaged]
    assert fresh.changed() >= max(int(each) for each in times)
