"""Unpack what a device installs and list what takes how much, in docs/operations.md.

usage: python tools/release/footprint.py [--out dist] [--check]

Reads the offline bundles in --out (make offline). Wheels of another architecture are unpacked like those of this one;
modules are compiled as `deploy/environment.sh` does it, by the target's version of CPython, which has to be on PATH.
Fails where an installation is larger than MOST_BYTES. --check writes nothing, and fails where the page says otherwise.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import sys
import tarfile
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from common import MOST_BYTES, ROOT, SELDOM_IMPORTED, TARGETS, Failed, exit_code, platforms, run, say, version

PAGE = ROOT / "docs/operations.md"
BEGIN, END = "<!-- footprint: written by tools/release/footprint.py -->\n", "<!-- end of footprint -->\n"
SHOWN = {"x86-64": "3.11", "arm64": "3.11", "jetpack-6.2": "3.10", "jetpack-7.2": "3.12"}
"""Targets of the table, and the Python of each: that of the system it is mostly for."""
LISTED_BYTES = 3e6


@dataclass(frozen=True)
class Footprint:
    """What an installation takes.

    Attributes:
        libraries: bytes of each library's files, by name.
        compiled: bytes of compiled modules.
    """

    libraries: Counter[str]
    compiled: int

    @property
    def total(self) -> int:
        """Bytes of all of it."""
        return self.libraries.total() + self.compiled


def unpack(bundle: Path, target: str, python: str, work: Path) -> Path:
    """Install the wheels of a bundle for one Python into a folder; no code of theirs runs."""
    with tarfile.open(bundle) as archive:
        archive.extractall(work, filter="data")
    (root,) = (path for path in work.iterdir() if path.is_dir())
    tags = [word for tag in platforms(TARGETS[target]) for word in ("--platform", tag)]
    run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile",
        "--require-hashes", "--only-binary", ":all:", "--python-version", python, "--implementation", "cp", *tags,
        "--find-links", root / "wheels", "--target", work / "site", "-r", root / f"requirements-{python}.txt",
    )  # fmt: skip
    return work / "site"


def library_sizes(site: Path) -> Counter[str]:
    """Add up the files of each library, by its RECORD; what no RECORD names counts as the environment's."""
    found: Counter[str] = Counter()
    for info in sorted(site.glob("*.dist-info")):
        name = info.name.partition("-")[0].replace("_", "-")
        for row in csv.reader((info / "RECORD").read_text(encoding="utf-8").splitlines()):
            path = site / re.sub(r"^(\.\./)+", "", row[0])
            if path.is_file():
                found[name] += path.stat().st_size
    return found


def compiled_bytes(site: Path, python: str) -> int:
    """Compile modules as an installation does; return what that adds."""
    program = shutil.which(f"python{python}")
    if program is None:
        raise Failed(f"python{python} is not on PATH: what compiled modules take cannot be seen")
    # a version manager's names may lead nowhere, and wheels may bring compiled modules along
    run(program, "-c", "")
    run("sh", "-c", '"$0" -m compileall -q -x "$1" . >/dev/null || true', program, SELDOM_IMPORTED, cwd=site)
    written = sum(path.stat().st_size for path in site.rglob("*.pyc"))
    if written == 0:
        raise Failed(f"{program} compiled nothing: it does not run, or writes elsewhere. Try: {program} -V")
    return written


def measure(out: Path, target: str, python: str) -> Footprint:
    """Unpack a target's bundle and add up.

    Raises:
        Failed: there is no bundle, or the installation is too large.
    """
    bundle = out / f"hobbit-edge-{version()}-{target}.tar.gz"
    if not bundle.exists():
        raise Failed(f"{bundle}: expected an offline bundle. Run: make wheels offline")
    with tempfile.TemporaryDirectory() as folder:
        site = unpack(bundle, target, python, Path(folder))
        found = Footprint(library_sizes(site), compiled_bytes(site, python))
    say(f"{target}, Python {python}: {found.total / 1e6:.1f} MB, {found.compiled / 1e6:.1f} MB of it compiled modules")
    if found.total >= MOST_BYTES:
        largest = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in found.libraries.most_common(5))
        raise Failed(f"{target}: {found.total / 1e6:.0f} MB, expected below {MOST_BYTES / 1e6:.0f}: {largest}")
    return found


def table(found: dict[str, Footprint]) -> str:
    """Return the table: libraries by size, the rest together, compiled modules, all of it."""
    names = {name for each in found.values() for name, size in each.libraries.items() if size >= LISTED_BYTES}
    order = sorted(names, key=lambda name: -max(each.libraries[name] for each in found.values()))
    rows = [[name, *(each.libraries[name] for each in found.values())] for name in order]
    rows.append(
        ["the others", *(sum(s for n, s in each.libraries.items() if n not in names) for each in found.values())]
    )
    rows.append(["compiled modules (not with `--no-compile`)", *(each.compiled for each in found.values())])
    rows.append(["all of it", *(each.total for each in found.values())])
    head = ["MB", *(f"{target}, Python {SHOWN[target]}" for target in found)]
    lines = [head, ["---"] * len(head), *([row[0], *(f"{int(size) / 1e6:.1f}" for size in row[1:])] for row in rows)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def go(out: Path, *, writes: bool) -> None:
    """Measure every target of the table; write it where that is asked for, else hold the page to it.

    Raises:
        Failed: the page has no table, or another one.
    """
    found = {target: measure(out, target, python) for target, python in SHOWN.items()}
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    listed, _, after = rest.partition(END)
    if not after:
        raise Failed(f"{PAGE.name}: expected lines {BEGIN.strip()} and {END.strip()}")
    if writes:
        PAGE.write_text(f"{before}{BEGIN}\n{table(found)}\n{END}{after}", encoding="utf-8")
    elif listed.strip() != table(found).strip():
        raise Failed(f"{PAGE.name}: lists something else. Run: make footprint. Found:\n{table(found)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    given = parser.parse_args()
    sys.exit(exit_code(lambda: go(given.out, writes=not given.check)))
