"""Files of a release keep their names where they are uploaded: checksums and pages go by them."""

from __future__ import annotations

import re
import sys

import pytest
from conftest import REPO

sys.path.insert(0, str(REPO / "tools/release"))

import common
import contained
import signing

PACKAGES = ("hobbit-edge", "hobbit-edge-export")


@pytest.mark.parametrize("pair", contained.SUITES)
def test_packages_have_names_that_are_kept(pair):
    suite, arch = pair.split(":")
    names = [contained.package_name(package, suite, arch)[0] for package in PACKAGES]
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9._+-]+", name)
        assert signing.KEPT_NAME.fullmatch(name)
    assert "~" in contained.package_version(suite), "so that a release of the system that has ours takes its own"


def test_scripts_name_packages_as_they_are_built():
    (line,) = re.findall(r"^debs=\(.*\)$", (REPO / "tests/debian/release.sh").read_text(), re.MULTILINE)
    named = line.replace("$version", common.version()).replace("${suite}", "noble").replace("$arch", "arm64")
    assert named.count("{,-export}") == 1
    for end, package in (("", "hobbit-edge"), ("-export", "hobbit-edge-export")):
        expected = contained.package_name(package, "noble", "arm64")[0]
        assert named.replace('"', "").replace("{,-export}", end).endswith(f"$packages/{expected})")


@pytest.mark.parametrize("name", ["hobbit-edge_1-1~noble1_arm64.deb", "two words.txt", ".hidden", "ends.", "ä.txt"])
def test_a_file_that_would_be_renamed_is_refused(tmp_path, name):
    (tmp_path / "hobbit_edge-1-cp310-abi3-manylinux_2_35_x86_64.whl").touch()
    signing.write_sums(tmp_path, None)
    (tmp_path / "SHA256SUMS.sig").write_text("signed")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / name).touch()
    with pytest.raises(common.Failed) as caught:
        signing.write_sums(tmp_path, None)
    assert f"{name}: expected letters, digits, '._-', neither '.' nor '-' at an end" in str(caught.value)
    assert str(caught.value).endswith("Rename or remove it.")
    (tmp_path / name).unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before, "what was there is still there"


def test_the_page_tells_whoever_looks_for_the_version():
    page = (REPO / "docs/releasing.md").read_text()
    assert "has a `.` where the version has a `~`" in " ".join(page.split())
