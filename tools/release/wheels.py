"""Build the source archive and the wheels of a release, and check them.

usage: python tools/release/wheels.py [--out dist] [--arch x86_64] [--arch aarch64] [--twice]

One wheel an architecture serves CPython 3.10 and every later one (docs/adr/0116). A wheel is built from the source
archive, never from the checkout: what the archive lacks is found here. The other architecture is cross-built with
Debian's compiler. Each wheel is held to its platform tag by auditwheel and to its ABI by abi3audit. `--twice` builds
everything a second time, elsewhere, and compares bytes.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from common import ARCHITECTURES, GLIBC, ROOT, Failed, compare, epoch, exit_code, run, say, the_wheel

TAG = f"manylinux_{GLIBC[0]}_{GLIBC[1]}"


def build_sdist(out: Path) -> Path:
    """Write the source archive into `out`."""
    env = {"SOURCE_DATE_EPOCH": str(epoch())}
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", out, ROOT, env=env)
    return next(out.glob("hobbit_edge-*.tar.gz"))


def build_wheel(sdist: Path, arch: str, out: Path) -> Path:
    """Build the wheel of one architecture from the source archive into `out`."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        source = next(Path(folder).iterdir())
        env = {
            "SOURCE_DATE_EPOCH": str(epoch()),
            "_PYTHON_HOST_PLATFORM": f"{TAG}_{arch}",
            # neither the folder of the build nor its number gets into the binaries
            "CXXFLAGS": f"-ffile-prefix-map={folder}=. {os.environ.get('CXXFLAGS', '')}",
            "LDFLAGS": f"-Wl,--build-id=none -Wl,-z,relro,-z,now {os.environ.get('LDFLAGS', '')}",
        }
        if arch != platform.machine():
            env["CMAKE_TOOLCHAIN_FILE"] = str(ROOT / "deploy/wheels" / f"{arch}.cmake")
        run(
            sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir",
            "--disable-pip-version-check", "-C", f"build-dir={folder}/build", "-w", out, source, env=env,
        )  # fmt: skip
    return the_wheel(out, arch)


def check_wheel(wheel: Path, arch: str) -> None:
    """Hold a wheel to what its name promises.

    Raises:
        Failed: it needs a newer C library than its tag says, or symbols the limited API does not have.
    """
    said = run(sys.executable, "-m", "auditwheel", "show", wheel)
    found = re.search(r'platform tag:\s*"manylinux_2_(\d+)_(\w+)"', said)
    if found is None or int(found[1]) > GLIBC[1] or found[2] != arch:
        raise Failed(f"{wheel.name}: auditwheel: expected {TAG}_{arch} or older, got\n{said[-1500:]}")
    run(sys.executable, "-m", "abi3audit", "--strict", "--assume-minimum-abi3", "3.10", wheel)
    say(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB, needs glibc 2.{found[1]}, limited API of 3.10")


def build(out: Path, architectures: list[str]) -> None:
    """Write archive and wheels into `out`, which holds nothing else of ours afterwards."""
    out.mkdir(parents=True, exist_ok=True)
    for old in [*out.glob("hobbit_edge-*.whl"), *out.glob("hobbit_edge-*.tar.gz")]:
        old.unlink()
    sdist = build_sdist(out)
    for arch in architectures:
        say(f"building for {arch}")
        check_wheel(build_wheel(sdist, arch, out), arch)


def missing_compiler(arch: str) -> str | None:
    """Say what this machine lacks to build for an architecture, None if nothing."""
    program = "c++" if arch == platform.machine() else f"{arch}-linux-gnu-g++"
    return None if shutil.which(program) else f"{program} is missing (apt-get install g++-{arch}-linux-gnu)"


def go(arguments: argparse.Namespace) -> None:
    """Build, and build again where that is asked for."""
    chosen = arguments.arch or list(ARCHITECTURES)
    for arch in chosen:
        if lacks := missing_compiler(arch):
            raise Failed(f"{arch}: {lacks}")
    build(arguments.out, chosen)
    if arguments.twice:
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder), chosen)
            compare(arguments.out, Path(folder), [path.name for path in Path(folder).iterdir()])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder that takes them (default: dist)")
    parser.add_argument("--arch", action="append", choices=ARCHITECTURES, help="only this one; may be repeated")
    parser.add_argument("--twice", action="store_true", help="build twice and compare the bytes")
    sys.exit(exit_code(lambda: go(parser.parse_args())))
