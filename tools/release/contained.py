"""What bundles and packages hold, compared with the wheel they should have been made of."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

from common import DEBIAN_NAMES, Failed, digest, version
from locks import LOCKS

DEBIAN_RELEASES = {"jammy": ("3.10", 35), "noble": ("3.12", 39), "bookworm": ("3.11", 36), "trixie": ("3.13", 41)}
"""Releases of Debian and Ubuntu there are packages for: Python, and the minor version of the C library."""
SUITES = tuple(f"{suite}:{arch}" for suite in DEBIAN_RELEASES for arch in DEBIAN_NAMES.values())


def package_version(suite: str) -> str:
    """Return the version of a package: ours, and the release it is for."""
    return f"{version()}-1~{suite}1"


def package_name(package: str, suite: str, arch: str) -> tuple[str, str]:
    """Return the file of a package, and its machine as `uname -m` says it."""
    machine = next(name for name, debian in DEBIAN_NAMES.items() if debian == arch)
    return f"{package}_{package_version(suite)}_{arch}.deb", machine


def check_bundle(bundle: Path, wheel: Path) -> None:
    """Hold an offline bundle to its own checksums, the wheel and today's locks.

    Raises:
        Failed: it is missing, damaged, or of an earlier build.
    """
    if not bundle.exists():
        raise Failed(f"{bundle.name} is not there. Run: make offline")
    found: dict[str, str] = {}
    small: dict[str, bytes] = {}
    with tarfile.open(bundle) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                name, content = member.name.partition("/")[2], file.read()
                found[name] = hashlib.sha256(content).hexdigest()
                if name == "SHA256SUMS" or name.startswith("requirements-"):
                    small[name] = content
    stated = _by_name(small.get("SHA256SUMS", b""))
    found.pop("SHA256SUMS", None)
    if stated != found:
        differ = sorted(name for name in stated.keys() | found.keys() if stated.get(name) != found.get(name))
        raise Failed(f"{bundle.name}: {', '.join(differ[:5])}: not what its SHA256SUMS says. Run: make offline")
    if found.get(f"wheels/{wheel.name}") != digest(wheel):
        raise Failed(f"{bundle.name}: holds another build than {wheel.name}. Run: make offline")
    for name in (name for name in small if name != "SHA256SUMS"):
        lock = LOCKS / f"device-{name.removeprefix('requirements-').removesuffix('.txt')}.txt"
        if not small[name].endswith(lock.read_bytes()):
            raise Failed(f"{bundle.name}: {name} is not of today's {lock.name}. Run: make offline")


def check_package(package: Path, wheel: Path) -> None:
    """Hold the files of a Debian package that are ours to the wheel, by the digests in the package.

    Raises:
        Failed: it is missing or of an earlier build.
    """
    if not package.exists():
        raise Failed(f"{package.name} is not there. Run: make deb")
    command = ["dpkg-deb", "--ctrl-tarfile", str(package)]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        sums = archive.extractfile("./md5sums")
        assert sums is not None
        packed = _by_name(sums.read())
    top = "hobbit_export/" if package.name.startswith("hobbit-edge-export") else "edge_runtime/"
    ours = {name.partition("/site-packages/")[2]: value for name, value in packed.items()}
    found = {name: value for name, value in ours.items() if name.startswith(top)}
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(top)]
        expected = {name: hashlib.md5(archive.read(name), usedforsecurity=False).hexdigest() for name in names}
    differ = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if differ:
        raise Failed(f"{package.name}: {', '.join(differ[:3])}: not that of {wheel.name}. Run: make deb")


def _by_name(sums: bytes) -> dict[str, str]:
    """Return digests by name, from lines as sha256sum and md5sum write them."""
    return {name: value for value, name in (line.split("  ", 1) for line in sums.decode().splitlines())}
