"""Checks of what is packaged take the machine they run on as it is: with a pretended one, nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile

import pytest
from conftest import REPO

INSTALLED = REPO / "tests/installed"
STUBS = {
    "id": "echo 0",
    "mount": "",
    "umount": "",
    "qemu-aarch64-static": "",
    "curl": "",
    # twice: whether there are namespaces, then what is run in them
    "unshare": 'echo "unshare $*"',
    "python": 'echo "python $*" >&2',
}


def check(folder, asked, machine):
    """Run check.sh for an architecture on a machine that says it is another; return its exit code and what it said."""
    here, programs = folder / "tests/installed", folder / "programs"
    here.mkdir(parents=True)
    programs.mkdir()
    for name in ("check.sh", "emulation.sh", "inside.py", "kernels.py"):
        shutil.copy(INSTALLED / name, here)
    (here / "root.sh").write_text('echo "root $1"; mkdir -p "$2/srv"\n')
    for name, body in {**STUBS, "uname": f"echo {machine}"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    with tarfile.open(folder / "bundle.tar.gz", "w:gz"):
        pass
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHON": str(programs / "python")}
    done = subprocess.run(
        ["bash", here / "check.sh", asked, folder / "bundle.tar.gz"],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in env.items() if name not in ("RELEASE", "EMULATED_CPU")},
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("release", ["", "jammy:"])
@pytest.mark.parametrize(
    ("asked", "machine", "debian", "is_emulated"),
    [
        ("x86_64", "x86_64", "amd64", False),
        ("aarch64", "aarch64", "arm64", False),
        ("aarch64", "x86_64", "arm64", True),
    ],
)
def test_a_bundle_is_installed_in_a_root_of_its_architecture(tmp_path, asked, machine, debian, is_emulated, release):
    code, said = check(tmp_path, release + asked, machine)
    assert (code, f"\nroot {debian}\n" in said) == (0, True), said
    assert ("emulating a cortex-a76" in said) is is_emulated
    assert ("--isa neon-dotprod" in said) is is_emulated
    assert said.count("--no-compile") == is_emulated


@pytest.mark.parametrize("asked", ["x86_64", "riscv64"])
def test_what_an_arm64_cannot_run_is_not_counted_as_passed(tmp_path, asked):
    code, said = check(tmp_path, asked, "aarch64")
    assert code == 2, said
    assert f"The wheel for {asked} was NOT checked." in said
