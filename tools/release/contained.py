"""What bundles and packages hold, compared with the wheel they should have been made of."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

from common import DEBIAN_NAMES, Failed, digest, epoch, version
from locks import LOCKS, read
from packaging.utils import canonicalize_name

DEBIAN_RELEASES = {"jammy": ("3.10", 35), "noble": ("3.12", 39), "bookworm": ("3.11", 36), "trixie": ("3.13", 41)}
"""Releases of Debian and Ubuntu there are packages for: Python, and the minor version of the C library."""
SUITES = tuple(f"{suite}:{arch}" for suite in DEBIAN_RELEASES for arch in DEBIAN_NAMES.values())


def package_version(suite: str) -> str:
    """Return the version of a package: ours, and the release it is for."""
    return f"{version()}-1~{suite}1"


def package_name(package: str, suite: str, arch: str) -> tuple[str, str]:
    """Return the file of a package, and its machine as `uname -m` says it.

    GitHub renames what is uploaded with a `~` in its name, and checksums go by names: in the file's it is a `.`.
    """
    machine = next(name for name, debian in DEBIAN_NAMES.items() if debian == arch)
    return f"{package}_{package_version(suite).replace('~', '.')}_{arch}.deb", machine


def check_time(name: str, written: int, command: str) -> None:
    """See that a file was made of this commit, whose time everything of a release carries.

    Raises:
        Failed: it was made of another one.
    """
    if written != epoch():
        found, expected = (datetime.fromtimestamp(each, timezone.utc).isoformat() for each in (written, epoch()))
        raise Failed(f"{name}: made of a commit of {found}, this checkout's is of {expected}. Run: {command}")


def check_wheel_time(wheel: Path) -> None:
    """The same for a wheel, whose times are even seconds."""
    check_time(wheel.name, time_of_wheel(wheel) + epoch() % 2, "make wheels")


def time_of_wheel(wheel: Path) -> int:
    """Return the time a wheel carries, in even seconds."""
    with zipfile.ZipFile(wheel) as archive:
        latest = max(each.date_time for each in archive.infolist())
    return int(datetime(*latest, tzinfo=timezone.utc).timestamp())


def control_files(package: Path) -> io.BytesIO:
    """Return a package's archive of control files, which comes before its content."""
    command = ["dpkg-deb", "--ctrl-tarfile", str(package)]
    return io.BytesIO(subprocess.run(command, check=True, capture_output=True).stdout)


def check_bundle(bundle: Path, wheel: Path) -> None:
    """Hold an offline bundle to its own checksums, the wheel, today's locks and this commit.

    Raises:
        Failed: it is missing, damaged, or of an earlier build.
    """
    if not bundle.exists():
        raise Failed(f"{bundle.name} is not there. Run: make offline")
    found: dict[str, str] = {}
    small: dict[str, bytes] = {}
    written: set[int] = set()
    with tarfile.open(bundle) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                name, content = member.name.partition("/")[2], file.read()
                found[name] = hashlib.sha256(content).hexdigest()
                if name == "SHA256SUMS" or name.startswith("requirements-"):
                    small[name] = content
                written.add(int(member.mtime))
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
    check_time(bundle.name, max(written), "make offline")


def check_package(package: Path, wheel: Path) -> None:
    """Hold a Debian package, by the digests in it, to the wheel, today's locks and this commit.

    Raises:
        Failed: it is missing or of an earlier build.
    """
    if not package.exists():
        raise Failed(f"{package.name} is not there. Run: make deb")
    with tarfile.open(fileobj=control_files(package)) as archive:
        member = archive.getmember("./md5sums")
        sums = archive.extractfile(member)
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
    if differ := _libraries(ours) ^ _locked(package):
        raise Failed(f"{package.name}: {', '.join(sorted(differ)[:3])}: not as in today's locks. Run: make deb")
    check_time(package.name, int(member.mtime), "make deb")


def _libraries(names: Iterable[str]) -> set[str]:
    """Return `name==version` of the libraries that lie unpacked somewhere, but for ours."""
    found = {match[1] for name in names if (match := re.match(r"([^/]+)\.dist-info/METADATA$", name))}
    pairs = {(canonicalize_name(each.partition("-")[0]), each.partition("-")[2]) for each in found}
    return {f"{name}=={version}" for name, version in pairs if name != "hobbit-edge"}


def _locked(package: Path) -> set[str]:
    """Return what a package has to bring along: the exporter's what the runtime's has not."""
    python = next(python for suite, (python, _) in DEBIAN_RELEASES.items() if f".{suite}1_" in package.name)
    device, every = (
        {f"{canonicalize_name(each.name)}=={each.version}" for each in read(LOCKS / f"{name}-{python}.txt")}
        for name in ("device", "all")
    )
    return every - device if package.name.startswith("hobbit-edge-export") else device


def _by_name(sums: bytes) -> dict[str, str]:
    """Return digests by name, from lines as sha256sum and md5sum write them."""
    return {name: value for value, name in (line.split("  ", 1) for line in sums.decode().splitlines())}
