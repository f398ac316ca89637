"""`make release-check` on what lies in the folder of a release: bundles and packages of this build, and nothing else."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import REPO

sys.path.insert(0, str(REPO / "tools/release"))

import check
import common
import contained
import locks
import offline

OURS = {"edge_runtime/__init__.py": b"# ours\n", "hobbit_export/__init__.py": b"# the exporter\n"}
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb; packages were NOT checked")


def write_wheel(out, arch, content=OURS):
    wheel = out / f"hobbit_edge-{common.version()}-cp310-abi3-manylinux_2_35_{arch}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, raw in content.items():
            archive.writestr(name, raw)
    return wheel


def write_bundle(out, target, wheel, changed=()):
    """What `make offline` writes, without libraries."""
    name = f"hobbit-edge-{common.version()}-{target}"
    folder = out.parent / "made" / name
    (folder / "wheels").mkdir(parents=True)
    shutil.copy(wheel, folder / "wheels")
    for python in common.TARGETS[target].pythons:
        offline.write_requirements(wheel, python, locks.LOCKS / f"device-{python}.txt", "serve", folder)
    offline.write_sums(folder)
    for file in changed:
        (folder / file).write_bytes(b"evil==1\n")
    common.pack(folder, out / f"{name}.tar.gz", 1)
    shutil.rmtree(folder)
    return out / f"{name}.tar.gz"


def write_package(out, package, suite, arch, content=OURS):
    name, _ = contained.package_name(package, suite, arch)
    top = "hobbit_export/" if "export" in package else "edge_runtime/"
    root = out.parent / "made" / name
    (root / "DEBIAN").mkdir(parents=True)
    version = contained.package_version(suite)
    (root / "DEBIAN/control").write_text(
        f"Package: {package}\nVersion: {version}\nArchitecture: {arch}\nMaintainer: a <a@b>\nDescription: x\n"
    )
    lines = [
        f"{hashlib.md5(raw).hexdigest()}  opt/hobbit-edge/lib/python3.11/site-packages/{each}"
        for each, raw in {**content, "other/x.py": b""}.items()
        if each.startswith((top, "other"))
    ]
    (root / "DEBIAN/md5sums").write_text("\n".join(lines) + "\n")
    subprocess.run(["dpkg-deb", "-z1", "--build", str(root), str(out / name)], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(root)


@pytest.fixture
def release(tmp_path):
    """A folder with a whole release of one target and one suite."""
    out = tmp_path / "dist"
    out.mkdir()
    wheels = {arch: write_wheel(out, arch) for arch in common.ARCHITECTURES}
    (out / f"hobbit_edge-{common.version()}.tar.gz").write_bytes(b"")
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
    stale = release / "hobbit-edge_0.0.9-1~noble1_arm64.deb"
    stale.write_bytes(b"")
    with pytest.raises(common.Failed, match=r"found hobbit-edge_0.0.9-1~noble1_arm64.deb too. Remove it"):
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
