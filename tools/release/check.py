"""Hold a release to its rules before anyone gets it, and write its bills of materials and checksums.

usage: python tools/release/check.py [--out dist] [--key FILE] [--tag vX.Y.Z] [--target NAME]... [--suite SUITE:ARCH]...

Needs what `make wheels offline deb` wrote, and no network. Checks: the version is in one place and in the CHANGELOG;
what the wheels hold and say of themselves; that every bundle and package is there, is of this commit and holds these
wheels and today's locks, and nothing else lies beside them; that no library comes along unasked whose licence asks for
more than its text (the AGPL one is an extra that `all` leaves out); that nothing locked or allowed has a known
vulnerability. Then writes CycloneDX files and SHA256SUMS, signed with an SSH key where one is given (--key or
HOBBIT_SIGNING_KEY). With --tag, which a workflow that GitHub runs for a tag has by itself, it is what goes out: then
the tag is this version's, the CHANGELOG has its date, and the signature is one that deploy/signers lets anybody verify.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import re
import sys
import zipfile
from pathlib import Path

from common import ARCHITECTURES, PYTHONS, ROOT, TARGETS, Failed, exit_code, run, say, the_wheel, version
from contained import SUITES, check_bundle, check_package, check_time, check_wheel_time, package_name
from licences import is_permitted
from locks import LOCKS, SETS, read
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from sbom import write as write_sbom
from signing import check_signature, write_sums

NEEDED = (
    "edge_runtime/py.typed", "edge_runtime/profiles/generic.yaml", "edge_runtime/backends/cuda/kernels/hobbit.cu",
    "hobbit_export/cli.py", ".dist-info/licenses/LICENSE", "data/share/man/man1/hobbit.1",
    "data/share/bash-completion/completions/hobbit",
)  # fmt: skip
MAY_NAME_A_VERSION = {
    "pyproject.toml": "the one place",
    "CHANGELOG.md": "what each version brought",
    "deploy/locks/": "versions of libraries",
    "deploy/floors.txt": "versions of libraries",
    "benchmarks/results/": "what was measured, with which version",
    "docs/benchmarks.md": "written from those",
    "docs/profiles.md": "a profile's `tuned_for`, as an example",
    "tests/old_builds/": "what an old version wrote",
    "tests/integration/test_old_builds.py": "that it did",
    "tests/service_figures.py": "figures of a service that is made up",
}
"""Beginnings of the names of files in which the version may stand, or that of something else that is like it."""
NATIVE = ("backends/cpu/kernels", "base", "experts", "experts/drive", "policy")


def floors() -> dict[str, Version]:
    """Return the lowest version without a known vulnerability, by library."""
    found = {}
    for line in (ROOT / "deploy/floors.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line.partition("#")[0])
            found[canonicalize_name(requirement.name)] = Version(next(iter(requirement.specifier)).version)
    return found


def check_version() -> None:
    """See that of all tracked files pyproject.toml alone has the version, and the CHANGELOG its section."""
    tracked = run("git", "-C", str(ROOT), "ls-files", "-z").split("\0")
    found = re.compile(rf"(?<![\d.]){re.escape(version())}(?![\d.])".encode())
    written = [
        name
        for name in tracked
        if name and not name.startswith(tuple(MAY_NAME_A_VERSION))
        if (ROOT / name).is_file() and found.search((ROOT / name).read_bytes())
    ]
    if written:
        raise Failed(f"version {version()}: expected in pyproject.toml alone, found in {', '.join(written)}")
    if f"## [{version()}]" not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
        raise Failed(f"CHANGELOG.md: expected a section '## [{version()}]'")


def check_tag(tag: str) -> None:
    """See that what a tag publishes is meant to be published.

    Raises:
        Failed: it is the tag of another version, or the CHANGELOG has no date for this one.
    """
    if tag != f"v{version()}":
        raise Failed(f"tag {tag}: expected v{version()}, the version in pyproject.toml")
    heads = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if not re.fullmatch(rf"\[{re.escape(version())}\] - \d{{4}}-\d\d-\d\d", heads[0]):
        raise Failed(f"CHANGELOG.md: expected '[{version()}] - YYYY-MM-DD' as its first section, got '{heads[0]}'")


def check_contents(wheel: Path) -> None:
    """See that a wheel holds what an installed copy needs, nothing else, and that its RECORD is true."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        tops = {name.partition("/")[0] for name in names}
        strange = {top for top in tops if top not in ("edge_runtime", "hobbit_export")} - {
            top for top in tops if top.endswith((".dist-info", ".data"))
        }
        bad = [name for name in names if re.search(r"__pycache__|\.(cpp|hpp|o|a|orig)$|/tests?/|^[^/]*\.py$", name)]
        missing = [need for need in NEEDED if not any(name.endswith(need) for name in names)]
        missing += [part for part in NATIVE if f"edge_runtime/{part}/_native.abi3.so" not in names]
        if strange or bad or missing:
            raise Failed(f"{wheel.name}: strange {sorted(strange)}, unwanted {bad}, missing {missing}")
        record = archive.read(next(name for name in names if name.endswith(".dist-info/RECORD"))).decode()
        listed = dict(line.rsplit(",", 2)[:2] for line in record.splitlines() if line)
        for name in names:
            raw = hashlib.sha256(archive.read(name)).digest()
            said = listed.get(name)
            if said is None or (said and said != "sha256=" + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()):
                raise Failed(f"{wheel.name}: {name} is not what RECORD says")


def check_metadata(wheel: Path) -> None:
    """See that a wheel's metadata is valid and says what pyproject.toml does."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        raw = archive.read(next(name for name in names if name.endswith(".dist-info/METADATA")))
    found = Metadata.from_email(raw, validate=True)
    if str(found.version) != version() or str(found.requires_python) != ">=3.10":
        raise Failed(f"{wheel.name}: expected {version()} for >=3.10, got {found.version}, {found.requires_python}")
    for need in ("serve", "bench", "export", "all"):
        if need not in (found.provides_extra or ()):
            raise Failed(f"{wheel.name}: expected the extra {need}")
    check_requirements([str(requirement) for requirement in found.requires_dist or ()])


def check_requirements(asked: list[str]) -> None:
    """See that no requirement takes a version below its floor."""
    lowest = floors()
    for requirement in map(Requirement, asked):
        floor = lowest.get(canonicalize_name(requirement.name))
        if floor is not None and requirement.specifier.contains(_just_below(floor)):
            raise Failed(f"pyproject.toml: {requirement}: versions below {floor} have a known vulnerability; raise it")


def _just_below(floor: Version) -> Version:
    """Return a version that a requirement must not take if it may take none below the floor."""
    parts = list(floor.release)
    while parts and parts[-1] == 0:
        parts.pop()
    parts[-1] -= 1
    return Version(".".join(map(str, [*parts, 99999])))


def check_libraries() -> None:
    """See that every lock is there and names nothing vulnerable, and nothing whose licence was not asked for."""
    lowest = floors()
    locks = [LOCKS / f"{name}-{python}.txt" for name in SETS for python in PYTHONS]
    for lock in (*locks, LOCKS / "pip.txt"):
        libraries = read(lock)
        if not libraries:
            raise Failed(f"{lock.name}: missing or empty. Run: make locks")
        for library in libraries:
            what, floor = f"{lock.name}: {library.name}", lowest.get(canonicalize_name(library.name))
            if floor is not None and Version(library.version) < floor:
                raise Failed(f"{what} {library.version}: expected {floor} or newer (deploy/floors.txt)")
            if not is_permitted(library.licence):
                raise Failed(f"{what}: licence {library.licence!r}: not one that may come along")


def check_set(out: Path, targets: list[str], suites: list[str]) -> None:
    """See that every bundle and package is there and of these wheels, and that nothing lies beside them.

    What is in the folder gets a checksum, and a signature. A file of an earlier build would get them too.
    """
    sdist = out / f"hobbit_edge-{version()}.tar.gz"
    if not sdist.exists():
        raise Failed(f"{sdist.name} is not there. Run: make wheels")
    # the time in the head of a gzip file
    check_time(sdist.name, int.from_bytes(sdist.read_bytes()[4:8], "little"), "make wheels")
    expected = {sdist.name}
    for arch in ARCHITECTURES:
        check_wheel_time(the_wheel(out, arch))
        expected.add(the_wheel(out, arch).name)
    for target in targets:
        name = f"hobbit-edge-{version()}-{target}.tar.gz"
        check_bundle(out / name, the_wheel(out, TARGETS[target].arch))
        expected.add(name)
    for pair in suites:
        for package in ("hobbit-edge", "hobbit-edge-export"):
            name, arch = package_name(package, *pair.split(":"))
            check_package(out / name, the_wheel(out, arch))
            expected.add(name)
    ours = re.compile(rf"SHA256SUMS(\.sig)?|hobbit-edge-{re.escape(version())}-\w+-python[\d.]+\.cdx\.json")
    strange = sorted(path.name for path in out.iterdir() if path.name not in expected and not ours.fullmatch(path.name))
    if strange:
        raise Failed(f"{out}: expected what this release consists of alone, found {', '.join(strange)} too. Remove it.")
    say(f"{len(targets)} bundles and {2 * len(suites)} packages hold these wheels")


def go(arguments: argparse.Namespace) -> None:
    """Run every check, then write what goes out with the release."""
    out = arguments.out
    check_version()
    if arguments.tag:
        check_tag(arguments.tag)
    for arch in ARCHITECTURES:
        wheel = the_wheel(out, arch)
        check_contents(wheel)
        check_metadata(wheel)
        say(f"{wheel.name}: contents and metadata are right")
    check_set(out, arguments.target or list(TARGETS), arguments.suite or list(SUITES))
    check_libraries()
    say("libraries: licences permitted, nothing known to be vulnerable")
    for name in SETS:
        for python in PYTHONS:
            write_sbom(name, python, out)
    write_sums(out, arguments.key)
    if arguments.tag:
        check_signature(out)
        say(f"{arguments.tag}: meant for everyone")


def tag_of_workflow() -> str | None:
    """Return the tag that GitHub runs a workflow for, None where there is none."""
    return os.environ.get("GITHUB_REF_NAME") if os.environ.get("GITHUB_REF_TYPE") == "tag" else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--key", default=os.environ.get("HOBBIT_SIGNING_KEY") or None, help="SSH key to sign with")
    parser.add_argument("--tag", default=tag_of_workflow(), help="what is published: held to more")
    parser.add_argument("--target", action="append", choices=TARGETS, help="a bundle to expect (default: all)")
    parser.add_argument("--suite", action="append", choices=SUITES, help="packages to expect (default: all)")
    sys.exit(exit_code(lambda: go(parser.parse_args())))
