"""What the tools of a release share: places, targets, running commands, digests, archives of reproducible bytes."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
ARCHITECTURES = ("x86_64", "aarch64")
GLIBC = (2, 35)
"""Oldest C library a wheel of ours may need: Ubuntu 22.04 (JetPack 6), Debian 12 and newer have it."""
MOST_BYTES = 250_000_000
"""What a device's installation may take on the drive, without a GPU's libraries."""
SELDOM_IMPORTED = "/tests?/|/sympy/|/onnxruntime/(transformers|quantization|tools)/|/pygments/lexers/"
"""Modules that are not compiled when installing, as compileall's -x takes them: tests of libraries, and what rare work
imports. They import all the same. deploy/environment.sh and the Debian packages use the same words."""
DEBIAN_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}


class Failed(Exception):
    """A step that did not hold; the message says what was expected, what was found, what to do."""


@dataclass(frozen=True)
class Target:
    """A system something is packaged for.

    Attributes:
        arch: machine as `uname -m` says it.
        pythons: versions of CPython it may have.
        glibc: its C library.
    """

    arch: str
    pythons: tuple[str, ...]
    glibc: tuple[int, int]


TARGETS = {
    "jetpack-6.2": Target("aarch64", ("3.10",), (2, 35)),
    "jetpack-7.2": Target("aarch64", ("3.12",), (2, 39)),
    "arm64": Target("aarch64", PYTHONS, (2, 36)),
    "x86-64": Target("x86_64", PYTHONS, (2, 36)),
}


def version() -> str:
    """Return the version of this checkout, from the one place that has it."""
    found = re.search(r'^version = "([^"]+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise Failed('pyproject.toml: expected a line version = "..."')
    return found[1]


def epoch() -> int:
    """Return the time that goes into archives: SOURCE_DATE_EPOCH, else the last commit's."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return int(given) if given else int(run("git", "-C", str(ROOT), "log", "-1", "--format=%ct"))


def run(*command: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a command to its end and return its standard output.

    Raises:
        Failed: it ended badly; the message has the end of what it wrote.
    """
    words = [str(word) for word in command]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, cwd=cwd, env=None if env is None else {**os.environ, **env}
    )
    if done.returncode:
        raise Failed(f"{' '.join(words[:6])} ...: exit {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def say(text: str) -> None:
    """Tell the person who waits what happens."""
    print(f"==> {text}", flush=True)


def digest(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        found = hashlib.sha256()
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def compare(first: Path, second: Path, names: Iterable[str]) -> None:
    """Compare what two builds wrote, byte for byte.

    Raises:
        Failed: names the first file that differs, or that one of them lacks.
    """
    for name in sorted(names):
        one, other = first / name, second / name
        if not other.exists() or digest(one) != digest(other):
            raise Failed(f"{name}: two builds differ. Find what with: diffoscope {one} {other}")
        say(f"{name}: a second build has the same bytes")


def the_wheel(folder: Path, arch: str) -> Path:
    """Return this version's wheel for a machine."""
    found = sorted(folder.glob(f"hobbit_edge-{version()}-*_{arch}.whl"))
    if len(found) != 1:
        raise Failed(f"{folder}: expected one wheel of {version()} for {arch}, found {len(found)}. Run: make wheels")
    return found[0]


def platforms(target: Target) -> list[str]:
    """Return the platform tags a target takes, the newest first."""
    names = [f"manylinux_2_{minor}_{target.arch}" for minor in range(target.glibc[1], 4, -1)]
    return [*names, f"manylinux2014_{target.arch}", f"linux_{target.arch}"]


def pack(folder: Path, out: Path, when: int) -> None:
    """Write `folder` as a .tar.gz whose bytes depend on its content alone."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mtime = when
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    with (
        out.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=when) as packed,
        tarfile.open(mode="w", fileobj=packed, format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in [folder, *sorted(folder.rglob("*"))]:
            archive.add(path, path.relative_to(folder.parent).as_posix(), recursive=False, filter=plain)


def exit_code(step: Callable[[], object]) -> int:
    """Run a tool; say what failed and return its exit code."""
    try:
        step()
    except Failed as err:
        print(f"release: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    print(version())
