"""Write the Debian packages: `hobbit-edge` with the runtime and its service, `hobbit-edge-export` with the exporter.

usage: python tools/release/debian.py --suite bookworm --arch arm64 [--out dist] [--twice]

A package holds a Python environment of its own below /opt/hobbit-edge, filled from the same locked wheels as an offline
bundle, so it fits one release of Debian or Ubuntu, that is one version of Python (docs/adr/0117). Needs dpkg-deb and
the wheel of this version in --out (make wheels). `--twice` builds both a second time, elsewhere, and compares bytes.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from common import (
    DEBIAN_NAMES,
    ROOT,
    SELDOM_IMPORTED,
    Failed,
    compare,
    epoch,
    exit_code,
    platforms,
    run,
    say,
    the_wheel,
)
from common import Target as System
from contained import DEBIAN_RELEASES, package_name, package_version
from debian_text import changelog, control, copyright_text
from debian_tree import HOME, add_environment, add_service, add_share, split, write
from locks import LOCKS
from offline import download
from packaging.utils import parse_wheel_filename


@dataclass(frozen=True)
class Build:
    """What is packaged for what.

    Attributes:
        suite: code name of the release of Debian or Ubuntu.
        arch: machine as `uname -m` says it.
        out: folder with the wheel, which takes the packages.
        level: how hard xz tries, 1 to 9.
    """

    suite: str
    arch: str
    out: Path
    level: int

    @property
    def python(self) -> str:
        """Version of Python the release has."""
        return DEBIAN_RELEASES[self.suite][0]

    @property
    def site(self) -> str:
        """Where libraries go, from the package's root."""
        return f"{HOME}/lib/python{self.python}/site-packages"

    @property
    def version(self) -> str:
        """Version of the package: ours, and the release it is for."""
        return package_version(self.suite)


def install(build: Build, lock: str, into: Path, work: Path) -> None:
    """Unpack the wheels of a lock, and ours, into a folder of libraries; no code of theirs runs."""
    wheels = work / f"wheels-{lock}"
    wheels.mkdir()
    download(
        System(build.arch, (build.python,), (2, DEBIAN_RELEASES[build.suite][1])), build.python, LOCKS / lock, wheels
    )
    shutil.copy(the_wheel(build.out, build.arch), wheels)
    tags = [
        word
        for tag in platforms(System(build.arch, (), (2, DEBIAN_RELEASES[build.suite][1])))
        for word in ("--platform", tag)
    ]
    # by name: of a wheel given by its path pip writes down the path, which is another one in every build
    names = ["{}=={}".format(*parse_wheel_filename(wheel.name)[:2]) for wheel in sorted(wheels.glob("*.whl"))]
    run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile",
        "--only-binary", ":all:", "--python-version", build.python, "--implementation", "cp", *tags,
        "--find-links", wheels, "--target", into, *names,
    )  # fmt: skip


def finish(build: Build, name: str, root: Path) -> str:
    """Add what every package has, remove what wheels leave behind, and write the package; return the file's name."""
    documents = root / "usr/share/doc" / name
    write(documents / "copyright", copyright_text(sorted(root.rglob("*.dist-info"))))
    write(
        documents / "changelog.Debian.gz",
        gzip.compress(changelog(name, build.version, build.suite).encode(), 9, mtime=epoch()),
    )
    write(
        root / "usr/share/lintian/overrides" / name,
        (ROOT / "deploy/debian" / f"{name}.overrides").read_text(encoding="utf-8"),
    )
    remove_leftovers(root)
    scripts = ROOT / "deploy/debian" / name
    for script in sorted(scripts.iterdir()) if scripts.is_dir() else ():
        text = script.read_text(encoding="utf-8").replace("@PYTHON@", build.python).replace("@SELDOM@", SELDOM_IMPORTED)
        write(root / "DEBIAN" / script.name, text, 0o644 if script.name == "conffiles" else 0o755)
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    write(root / "DEBIAN/control", control(name, build.version, DEBIAN_NAMES[build.arch], build.python, size // 1024))
    sums(root)
    file = build.out / package_name(name, build.suite, DEBIAN_NAMES[build.arch])[0]
    part, env = file.with_name(f"{file.name}.part"), {"SOURCE_DATE_EPOCH": str(epoch())}
    try:
        run("dpkg-deb", "--root-owner-group", "-Zxz", f"-z{build.level}", "--build", root, part, env=env)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    for old in build.out.glob(f"{name}_*{build.suite}1_{DEBIAN_NAMES[build.arch]}.deb"):
        if old != file:
            old.unlink()  # of another version, or under the name it had: one lies there for a release and machine
    say(f"{file.name}: {file.stat().st_size / 1e6:.0f} MB, {size / 1e6:.0f} MB installed")
    return file.name


def remove_leftovers(root: Path) -> None:
    """Give files the modes and times of a package: nothing of the machine that built it is left."""
    for path in sorted(root.rglob("*"), reverse=True):
        if path.name == "__pycache__":
            shutil.rmtree(path)
        elif path.is_dir():
            path.chmod(0o755)
        elif not path.is_symlink() and "site-packages" in path.parts:
            path.chmod(0o644)
    for path in [root, *root.rglob("*")]:
        os.utime(path, (epoch(), epoch()), follow_symlinks=False)


def sums(root: Path) -> None:
    """Write DEBIAN/md5sums, against which `dpkg --verify` holds what is installed."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()]
    names = [path.relative_to(root).as_posix() for path in files if "DEBIAN" not in path.parts]
    write(
        root / "DEBIAN/md5sums",
        run("md5sum", *[name for name in names if name != "etc/hobbit-edge/hobbit.env"], cwd=root),
    )


def write_both(build: Build) -> list[str]:
    """Write both packages and return the names of their files."""
    with tempfile.TemporaryDirectory() as folder:
        work, root, export = Path(folder), Path(folder) / "root", Path(folder) / "export"
        for place in (root, export):
            place.mkdir()
        say(f"unpacking libraries for {build.suite}, Python {build.python}, {DEBIAN_NAMES[build.arch]}")
        install(build, f"device-{build.python}.txt", work / "runtime", work)
        install(build, f"all-{build.python}.txt", work / "both", work)
        split(work / "both", work / "runtime", root, export, build.site)
        add_share(work / "runtime/share", root, export)
        add_environment(build.python, root, export)
        add_service(root)
        return [finish(build, "hobbit-edge", root), finish(build, "hobbit-edge-export", export)]


def go(arguments: argparse.Namespace) -> None:
    """Write both packages, and write them again where that is asked for."""
    arch = next(name for name, debian in DEBIAN_NAMES.items() if debian == arguments.arch)
    build = Build(arguments.suite, arch, arguments.out.resolve(), arguments.level)
    if shutil.which("dpkg-deb") is None:
        raise Failed("dpkg-deb is missing. Debian packages are built on Debian or Ubuntu.")
    os.umask(0o022)
    names = write_both(build)
    if arguments.twice:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(the_wheel(build.out, arch), folder)
            write_both(replace(build, out=Path(folder)))
            compare(build.out, Path(folder), names)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--suite", choices=DEBIAN_RELEASES, default="bookworm")
    parser.add_argument("--arch", choices=tuple(DEBIAN_NAMES.values()), default="amd64")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--level", type=int, choices=range(1, 10), default=4, help="of xz; 1 is quick (default: 4)")
    parser.add_argument("--twice", action="store_true", help="build twice and compare the bytes")
    sys.exit(exit_code(lambda: go(parser.parse_args())))
