"""Unpack what a device installs and list what takes how much, in docs/operations.md.

usage: python tools/release/footprint.py [--out dist] [--check]

Reads the offline bundles in --out (make offline). Wheels of another architecture are unpacked like those of this one;
modules are compiled as `deploy/environment.sh` does it, by the target's version of CPython, which has to be on PATH.
Fails where an installation is larger than MOST_BYTES. --check writes nothing, and fails where the page says otherwise:
other rows or targets, or a figure that is not as near as two compilers and two patch releases of Python come.
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
from itertools import zip_longest
from pathlib import Path

from common import MOST_BYTES, ROOT, SELDOM_IMPORTED, TARGETS, Failed, exit_code, platforms, run, say, version

PAGE = ROOT / "docs/operations.md"
BEGIN, END = "<!-- footprint: written by tools/release/footprint.py -->\n", "<!-- end of footprint -->\n"
SHOWN = {"x86-64": "3.11", "arm64": "3.11", "jetpack-6.2": "3.10", "jetpack-7.2": "3.12"}
"""Targets of the table, and the Python of each: that of the system it is mostly for."""
LISTED_BYTES = 3e6
NEAR_MB, NEAR_SHARE = 0.5, 0.02
"""How far a figure may be from the listed one, by whichever is more: native runners build with other compilers, and
other patch releases of Python compile modules. A build that kept its symbols is farther, and so is a library more
that has a row or moves the others by so much; a smaller one is not seen."""


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
    hold_to_limit(target, found)
    return found


def hold_to_limit(target: str, found: Footprint) -> None:
    """See that an installation is below the limit, whatever the page says.

    Raises:
        Failed: it is not; the message has the largest libraries.
    """
    if found.total >= MOST_BYTES:
        largest = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in found.libraries.most_common(5))
        raise Failed(f"{target}: {found.total / 1e6:.0f} MB, expected below {MOST_BYTES / 1e6:.0f}: {largest}")


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


def cells(text: str) -> dict[str, list[str]]:
    """Return the rows of a table by their first cell; its head is one of them."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.strip().splitlines()]
    return {row[0]: row[1:] for row in rows}


def differences(listed: str, found: str) -> list[str]:
    """Say where two tables differ: rows, targets, figures that are not near each other."""
    one, other = cells(listed), cells(found)
    said = [f"{name}: {'not listed' if name in other else 'listed, not found'}" for name in sorted(one.keys() ^ other)]
    for name in (name for name in other if name in one):
        pairs = zip_longest(one[name], other[name], fillvalue="nothing")
        said += [f"{name}: listed {old}, found {new}" for old, new in pairs if not is_near(old, new)]
    return said


def is_near(listed: str, found: str) -> bool:
    """Whether two cells are the same, or two figures in MB as near as two builds of the same may be."""
    if not all(re.fullmatch(r"\d+\.\d", each) for each in (listed, found)):
        return listed == found
    # they are tenths: half of one is no difference
    return abs(float(found) - float(listed)) < max(NEAR_MB, NEAR_SHARE * float(listed)) + 0.05


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
    elif said := differences(listed, table(found)):
        raise Failed(
            f"{PAGE.name}: lists something else ({'; '.join(said)}). Run: make footprint. Found:\n{table(found)}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    given = parser.parse_args()
    sys.exit(exit_code(lambda: go(given.out, writes=not given.check)))
