"""Resolve what a release brings along: exact versions, and the digests of exactly the wheels that are taken.

usage: python tools/release/locks.py [--python 3.10] [--upgrade]

Writes deploy/locks/SET-PYTHON.txt for the sets `device` (the runtime with its service) and `all` (every extra but those
that are proprietary, AGPL or large), each for both architectures. Needs the network; nothing else of a release does but
the download of what these files name. Without --upgrade what is locked stays as it is where it still fits.
"""

from __future__ import annotations

import argparse
import email
import re
import sys
import tempfile
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from common import ARCHITECTURES, PYTHONS, ROOT, Failed, Target, digest, exit_code, platforms, run, say
from licences import licence_of
from packaging.utils import canonicalize_name

LOCKS = ROOT / "deploy/locks"
SETS = {"device": ["serve"], "all": ["all"]}
OLDEST_GLIBC = {"3.10": (2, 35), "3.11": (2, 36), "3.12": (2, 39), "3.13": (2, 39), "3.14": (2, 39)}
"""The oldest system that brings each Python: Ubuntu 22.04, Debian 12, Ubuntu 24.04."""
HEADER = """# Written by tools/release/locks.py: {set} for CPython {python} on {machines}. Wheels only.
"""


def resolve(extras: list[str], python: str, arch: str, fixed: Path | None) -> list[str]:
    """Return `name==version` lines for one Python on one architecture."""
    floors = ROOT / "deploy/floors.txt"
    command = [
        "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--no-config", "--only-binary", ":all:",
        "--python-version", python, "--python-platform", f"{arch}-manylinux_2_{OLDEST_GLIBC[python][1]}",
        "--constraint", str(floors), *[word for extra in extras for word in ("--extra", extra)],
    ]  # fmt: skip
    if fixed is not None:
        command += ["--constraint", str(fixed)]
    lines = run(sys.executable, "-m", *command, ROOT / "pyproject.toml").splitlines()
    return sorted(line.strip() for line in lines if "==" in line)


def fetch(requirements: list[str], python: str, arch: str, into: Path) -> dict[str, Path]:
    """Download the wheels a system would take; return them by requirement."""
    flags = [word for tag in platforms(Target(arch, (python,), OLDEST_GLIBC[python])) for word in ("--platform", tag)]
    run(
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
        "--python-version", python, "--implementation", "cp", *flags, "-d", into, *requirements,
    )  # fmt: skip
    wheels = {canonicalize_name(path.name.partition("-")[0]): path for path in into.glob("*.whl")}
    return {requirement: wheels[canonicalize_name(requirement.partition("==")[0])] for requirement in requirements}


@dataclass(frozen=True)
class Locked:
    """A library of a lock.

    Attributes:
        name: as PyPI writes it.
        version: exactly this one.
        digests: SHA-256 of its wheels, one an architecture, or one for both.
        licence: as its metadata says.
    """

    name: str
    version: str
    digests: tuple[str, ...]
    licence: str


def read(path: Path) -> list[Locked]:
    """Return the libraries of a lock; none where there is no such file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = []
    for line in lines:
        requirement, _, licence = line.partition("  # ")
        if "==" in requirement:
            name, _, version = requirement.split()[0].partition("==")
            found.append(Locked(name, version, tuple(re.findall(r"sha256:([0-9a-f]{64})", line)), licence.strip()))
    return found


def metadata_of(wheel: Path) -> Message:
    """Return a wheel's METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def lock(name: str, python: str, *, upgrade: bool) -> None:
    """Write one lock."""
    path = LOCKS / f"{name}-{python}.txt"
    digests: dict[str, list[str]] = defaultdict(list)
    licences: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "kept.txt"
        old = [] if upgrade else [f"{each.name}=={each.version}" for each in read(path)]
        kept.write_text("\n".join(old), encoding="utf-8")
        for arch in ARCHITECTURES:
            requirements = resolve(SETS[name], python, arch, kept)
            kept.write_text("\n".join(requirements), encoding="utf-8")  # the other architecture gets the same versions
            say(f"{path.name}: {len(requirements)} libraries for {arch}")
            for requirement, wheel in fetch(requirements, python, arch, Path(folder) / arch).items():
                digests[requirement].append(digest(wheel))
                licences[requirement] = licence_of(metadata_of(wheel))
    lines = [
        " ".join([requirement, *(f"--hash=sha256:{found}" for found in dict.fromkeys(digests[requirement]))])
        + f"  # {licences[requirement]}"
        for requirement in sorted(digests)
    ]
    if not lines:
        raise Failed(f"{path.name}: nothing was resolved")
    header = HEADER.format(set=name, python=python, machines=" and ".join(ARCHITECTURES))
    path.write_text(header + "\n".join(lines) + "\n", encoding="utf-8")


def lock_pip() -> None:
    """Write the lock of pip itself, which offline bundles bring along."""
    with tempfile.TemporaryDirectory() as folder:
        (wheel,) = fetch(["pip"], PYTHONS[0], ARCHITECTURES[0], Path(folder)).values()
        found = f"pip=={wheel.name.split('-')[1]} --hash=sha256:{digest(wheel)}  # {licence_of(metadata_of(wheel))}\n"
    (LOCKS / "pip.txt").write_text("# Written by tools/release/locks.py: pip, for offline bundles.\n" + found)


def go(arguments: argparse.Namespace) -> None:
    """Write the locks asked for."""
    LOCKS.mkdir(exist_ok=True)
    if arguments.upgrade or not (LOCKS / "pip.txt").exists():
        lock_pip()
    for python in arguments.python or PYTHONS:
        for name in SETS:
            lock(name, python, upgrade=arguments.upgrade)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", action="append", choices=PYTHONS, help="only this one; may be repeated")
    parser.add_argument("--upgrade", action="store_true", help="take the newest of everything")
    sys.exit(exit_code(lambda: go(parser.parse_args())))
