"""Hold Debian packages to what their control file says: programs for that machine, modules for that Python, no surprise.

usage: python contents.py DIR     every .deb in it; prints a line for each, exits 1 at the first that does not hold
"""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

MACHINES = {"amd64": 62, "arm64": 183}
"""Numbers of machines in the head of an ELF file."""
SHARED = ("usr/share/doc/{name}/copyright", "usr/share/doc/{name}/changelog.Debian.gz")
NEEDED = {
    "hobbit-edge": (
        "usr/bin/hobbit", "usr/bin/hobbit-edge", "opt/hobbit-edge/bin/python", "opt/hobbit-edge/pyvenv.cfg",
        "usr/lib/systemd/system/hobbit.service", "usr/lib/systemd/system/hobbit.socket", "usr/lib/sysusers.d/hobbit-edge.conf",
        "usr/lib/tmpfiles.d/hobbit-edge.conf", "etc/hobbit-edge/hobbit.env", "usr/share/man/man1/hobbit.1.gz",
        "usr/share/man/man1/hobbit-serve.1.gz", "usr/share/bash-completion/completions/hobbit",
        "usr/share/zsh/vendor-completions/_hobbit", "usr/share/fish/vendor_completions.d/hobbit.fish",
        "usr/share/hobbit-edge/profiles/orin-nano-8gb.yaml", "usr/share/doc/hobbit-edge/operations.md", *SHARED,
    ),
    "hobbit-edge-export": ("usr/bin/hobbit-export", "usr/share/man/man1/hobbit-export.1.gz", *SHARED),
}  # fmt: skip
"""Commands, units, user, settings, pages, completions, profiles."""
PLACES = ("./opt/hobbit-edge/", "./usr/", "./etc/hobbit-edge/")


def field(package: Path, name: str) -> str:
    """Return a field of the control file."""
    return subprocess.run(
        ["dpkg-deb", "--field", str(package), name], check=True, capture_output=True, text=True
    ).stdout.strip()


def check(package: Path) -> str:
    """Look at every file of a package; return what was seen."""
    machine, depends = MACHINES[field(package, "Architecture")], field(package, "Depends")
    (minor,) = re.findall(r"\bpython3\.(\d+)(?:,|$)", depends)
    raw = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], check=True, capture_output=True).stdout
    native, names = 0, set()
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        for member in archive:
            name = member.name
            names.add(name.removeprefix("./"))
            assert (member.uid, member.gid) == (0, 0), f"{name}: expected root to own it, found {member.uid}"
            if not member.isfile():
                continue
            assert name.startswith(PLACES), f"{name}: expected below {', '.join(PLACES)}"
            assert not member.mode & 0o7022, f"{name}: mode {member.mode:o}"
            head = archive.extractfile(member).read(20)
            if head[:4] == b"\x7fELF":
                native += 1
                (found,) = struct.unpack_from("<H", head, 18)
                assert found == machine, f"{name}: is for machine {found}, expected {machine}"
            tag = re.search(r"\.cpython-3(\d+)", name)
            assert tag is None or tag[1] == minor, f"{name}: is for Python 3.{tag and tag[1]}, expected 3.{minor}"
    assert native > 0, "expected native modules, found none"
    title = field(package, "Package")
    missing = [need for each in NEEDED[title] if (need := each.format(name=title)) not in names]
    assert missing == [], f"lacks {', '.join(missing)}"
    return f"{native} native files for {field(package, 'Architecture')} and Python 3.{minor}"


def main() -> None:
    """Check every package of a folder."""
    packages = sorted(Path(sys.argv[1]).glob("*.deb"))
    assert packages, f"{sys.argv[1]}: no packages (make deb)"
    for package in packages:
        try:
            print(f"==> {package.name}: {check(package)}", flush=True)
        except AssertionError as err:
            sys.exit(f"deb: {package.name}: {err}")


if __name__ == "__main__":
    main()
