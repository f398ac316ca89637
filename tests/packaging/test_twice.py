"""What a release consists of is built twice with the same bytes, or the build fails and names the file."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import REPO

sys.path.insert(0, str(REPO / "tools/release"))

import common
import contained
import debian
import offline

VERSION = common.version()
SHARED = (
    "man/man1/hobbit.1", "man/man1/hobbit-export.1", "bash-completion/completions/hobbit",
    "fish/vendor_completions.d/hobbit.fish", "zsh/site-functions/_hobbit",
)  # fmt: skip


def write_wheel(folder, name, version, files, tag="py3-none-any"):
    """A wheel that pip installs."""
    info = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: MIT\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: {tag}\n",
    }
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)  # of one time, whenever it is written
        archive.writestr(
            zipfile.ZipInfo(f"{info}/RECORD"), "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
        )


@pytest.fixture
def out(tmp_path):
    """A folder with our wheel, which holds hardly anything."""
    (tmp_path / "dist").mkdir()
    files = {"edge_runtime/__init__.py": "", "hobbit_export/__init__.py": ""}
    files |= {f"hobbit_edge-{VERSION}.data/data/share/{name}": "page\n" for name in SHARED}
    write_wheel(tmp_path / "dist", "hobbit_edge", VERSION, files, "cp310-abi3-manylinux_2_35_x86_64")
    return tmp_path / "dist"


def library(changes):
    """In place of downloading: one library, which says something else each time if it `changes`."""
    times = []

    def download(target, python, lock, into):
        times.append(lock)
        write_wheel(into, "other_library", "1.5", {"other_library.py": f"# {len(times) if changes else 1}\n"})

    return download


def bundles(out):
    return argparse.Namespace(target=["x86-64"], python=["3.12"], set="device", out=out, twice=True)


def packages(out):
    return argparse.Namespace(suite="bookworm", arch="amd64", out=out, level=1, twice=True)


@pytest.fixture
def no_pip(monkeypatch):
    monkeypatch.setattr(offline, "fetch_pip", lambda into: None)


def test_a_bundle_is_the_same_twice(out, no_pip, monkeypatch, capsys):
    monkeypatch.setattr(offline, "download", library(changes=False))
    offline.go(bundles(out))
    assert f"hobbit-edge-{VERSION}-x86-64.tar.gz: a second build has the same bytes" in capsys.readouterr().out


def test_a_bundle_that_differs_is_refused(out, no_pip, monkeypatch):
    monkeypatch.setattr(offline, "download", library(changes=True))
    with pytest.raises(common.Failed, match=r"x86-64.tar.gz: two builds differ. Find what with: diffoscope"):
        offline.go(bundles(out))


needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb; packages were NOT built")


@needs_dpkg
def test_packages_are_the_same_twice_and_hold_no_path_of_the_build(out, monkeypatch, capsys):
    monkeypatch.setattr(debian, "download", library(changes=False))
    (out / "hobbit-edge_0.0.9-1~bookworm1_amd64.deb").touch()
    (out / "hobbit-edge_0.0.9-1.noble1_amd64.deb").touch()
    debian.go(packages(out))
    assert capsys.readouterr().out.count("a second build has the same bytes") == 2
    (out / "hobbit-edge_0.0.9-1.noble1_amd64.deb").unlink()
    named = {contained.package_name(name, "bookworm", "amd64")[0] for name in ("hobbit-edge", "hobbit-edge-export")}
    assert {path.name for path in out.glob("*.deb")} == named, "an earlier one for this release is gone"
    for package in sorted(out.glob("*.deb")):
        done = subprocess.run(["dpkg-deb", "--field", package, "Version"], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == f"{VERSION}-1~bookworm1", "a release's own build would be a newer one"
        done = subprocess.run(["dpkg-deb", "--contents", package], capture_output=True, text=True, check=True)
        assert "dist-info/RECORD" in done.stdout or "export" in package.name
        assert "direct_url.json" not in done.stdout


@needs_dpkg
def test_a_package_that_cannot_be_written_leaves_those_there_were(out, monkeypatch):
    names = ("hobbit-edge_0.0.9-1~bookworm1_amd64.deb", contained.package_name("hobbit-edge", "bookworm", "amd64")[0])
    for name in names:
        (out / name).write_text(f"earlier {name}")

    def full(*command, **more):
        if command[0] != "dpkg-deb":
            return common.run(*command, **more)
        Path(command[-1]).write_text("half")
        raise common.Failed("dpkg-deb: no space left")

    monkeypatch.setattr(debian, "download", library(changes=False))
    monkeypatch.setattr(debian, "run", full)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(common.Failed, match="no space left"):
        debian.go(packages(out))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@needs_dpkg
def test_packages_that_differ_are_refused(out, monkeypatch):
    monkeypatch.setattr(debian, "download", library(changes=True))
    with pytest.raises(common.Failed, match=r"hobbit-edge_.*_amd64.deb: two builds differ"):
        debian.go(packages(out))


def test_what_a_second_build_lacks_is_a_difference(tmp_path):
    (tmp_path / "file").write_text("content")
    (tmp_path / "again").mkdir()
    with pytest.raises(common.Failed, match="file: two builds differ"):
        common.compare(tmp_path, tmp_path / "again", ["file"])
