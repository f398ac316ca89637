"""Write an offline bundle: everything a target needs to install, with digests, and nothing to fetch.

usage: python tools/release/offline.py TARGET [--python 3.11] [--set device|all] [--out dist] [--twice]

TARGET is one of common.TARGETS. The bundle is a folder in a .tar.gz: wheels, requirements with digests for each
Python, the installer with units and settings, container files, the operator's page. Inside it `deploy/environment.sh`
and `deploy/install.sh` use no network. The wheel of this version must lie in --out (make wheels). Downloads what
deploy/locks names. `--twice` writes everything a second time, elsewhere, and compares bytes.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path

from common import (
    PYTHONS,
    ROOT,
    TARGETS,
    Failed,
    Target,
    compare,
    digest,
    epoch,
    exit_code,
    pack,
    platforms,
    run,
    say,
    the_wheel,
    version,
)
from locks import LOCKS, SETS

CARRIED = (
    "deploy/environment.sh", "deploy/install.sh", "deploy/replacing.sh", "deploy/uninstall.sh",
    "deploy/hobbit.env.example", "deploy/containers", "deploy/grafana", "systemd", "LICENSE", "CHANGELOG.md",
)  # fmt: skip
PAGE = "docs/operations.md"
README = """Hobbit Edge {version} for {name}, offline ({arch}; Python {pythons}).

  sudo deploy/install.sh                 program, user, units, settings; starts the service
  deploy/environment.sh DIR              only a Python environment, for anyone, anywhere

Neither uses the network. deploy/containers has images that are built from this folder. docs/operations.md says
the rest. SHA256SUMS names every file here.
"""


def download(target: Target, python: str, lock: Path, into: Path) -> None:
    """Fetch what a lock names for one Python; each file is held to the lock's digests."""
    flags = [word for tag in platforms(target) for word in ("--platform", tag)]
    run(
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes",
        "--python-version", python, "--implementation", "cp", *flags, "-d", into, "-r", lock,
    )  # fmt: skip


def write_requirements(wheel: Path, python: str, lock: Path, extras: str, folder: Path) -> None:
    """Write requirements-PYTHON.txt: the lock, and this version's wheel by its digest."""
    ours = f"hobbit-edge[{extras}]=={version()} --hash=sha256:{digest(wheel)}\n"
    (folder / f"requirements-{python}.txt").write_text(ours + lock.read_text(encoding="utf-8"), encoding="utf-8")


def fetch_pip(into: Path) -> None:
    """Add pip's own wheel: a Debian or Ubuntu without python3-venv has none."""
    run(
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "-d",
        into,
        "-r",
        LOCKS / "pip.txt",
    )


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS of everything in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def pages() -> list[str]:
    """Return the operator's page and the pages and pictures that it leads to."""
    leads_to = re.findall(r"\]\(([^)#:]+)", (ROOT / PAGE).read_text(encoding="utf-8"))
    return [PAGE, *sorted({f"docs/{name}" for name in leads_to})]


def carry(folder: Path) -> None:
    """Copy the installer, what it installs and the operator's pages, where they look for each other."""
    for name in (*CARRIED, *pages()):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)


def fill(folder: Path, name: str, pythons: tuple[str, ...], chosen: str, wheel: Path) -> None:
    """Write the content of a bundle."""
    target = TARGETS[name]
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    shutil.copy(wheel, wheels)
    for python in pythons:
        lock = LOCKS / f"{chosen}-{python}.txt"
        say(f"{name}: wheels for Python {python}")
        download(target, python, lock, wheels)
        write_requirements(wheel, python, lock, ",".join(SETS[chosen]), folder)
    fetch_pip(wheels)
    carry(folder)
    (folder / "ARCHITECTURE").write_text(target.arch + "\n", encoding="utf-8")
    text = README.format(version=version(), name=name, arch=target.arch, pythons=", ".join(pythons))
    (folder / "README.txt").write_text(text, encoding="utf-8")
    write_sums(folder)


def write_bundle(name: str, pythons: tuple[str, ...], chosen: str, wheel: Path, out: Path) -> str:
    """Write a bundle into the folder `out` and return the name of its file."""
    title = f"hobbit-edge-{version()}-{name}" + ("" if chosen == "device" else f"-{chosen}")
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / title
        fill(folder, name, pythons, chosen, wheel)
        file = out / f"{title}.tar.gz"
        pack(folder, file, epoch())
    say(f"{file.name}: {file.stat().st_size / 1e6:.0f} MB")
    return file.name


def go(arguments: argparse.Namespace) -> None:
    """Write the bundles asked for, and write them again where that is asked for."""
    for name in arguments.target:
        target = TARGETS[name]
        pythons = tuple(python for python in target.pythons if python in (arguments.python or PYTHONS))
        if not pythons:
            raise Failed(f"{name}: expected --python {' or '.join(target.pythons)}, got {', '.join(arguments.python)}.")
        wheel = the_wheel(arguments.out, target.arch)
        file = write_bundle(name, pythons, arguments.set, wheel, arguments.out)
        if arguments.twice:
            with tempfile.TemporaryDirectory() as again:
                write_bundle(name, pythons, arguments.set, wheel, Path(again))
                compare(arguments.out, Path(again), [file])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target", nargs="+", choices=TARGETS)
    parser.add_argument("--python", action="append", choices=PYTHONS, help="only this one of the target's")
    parser.add_argument("--set", choices=SETS, default="device", help="what is installed (default: device)")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--twice", action="store_true", help="write twice and compare the bytes")
    sys.exit(exit_code(lambda: go(parser.parse_args())))
