"""README.md: every command of its console blocks runs as written, on a machine with none of ours on it."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

sys.path.insert(0, str(Path(__file__).parent))

from machine import booted, missing

PAGE = (REPO / "README.md").read_text()
BLOCKS = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
TARGET = {"x86_64": "x86-64", "aarch64": "arm64"}.get(platform.machine(), "")
HOME = "/srv/home"
BLOCK_S = 1500


def commands(block: str) -> str:
    """The lines a person types: those behind a dollar sign, and what continues them."""
    found, is_open = [], False
    for line in block.splitlines():
        if line.startswith("$ ") or is_open:
            found.append(line.removeprefix("$ "))
            is_open = line.endswith("\\")
    return "\n".join(found) + "\n"


def block_with(text: str) -> str:
    """The commands of the one block that has a text in it."""
    (found,) = [block for block in BLOCKS if text in block]
    return commands(found)


def python_with_venv() -> str:
    """The folder of a python3 that can make environments."""
    has = subprocess.run(["/usr/bin/python3", "-c", "import ensurepip"], capture_output=True, check=False)
    return "/usr/bin" if has.returncode == 0 else f"{sys.base_prefix}/bin"


def test_every_block_is_run_here():
    """A block that is added to the page has to be added to the test below as well."""
    named = ("environment.sh", "git clone", "Qwen3-30B-A3B --out", "make test", "examples/tiny-moe --out")
    assert sorted(map(block_with, named)) == sorted(map(commands, BLOCKS))
    assert len(PYTHON_BLOCKS) == 1


@pytest.mark.slow
def test_every_command_runs_as_written():
    if lacks := missing():
        pytest.skip(f"no machine can be booted here ({lacks}); README.md was NOT run")
    bundles = sorted((REPO / "dist").glob(f"hobbit-edge-*-{TARGET}.tar.gz"))
    if not bundles:
        pytest.skip("no offline bundle for this machine in dist/ (make offline); README.md was NOT run")
    with booted() as machine:
        for folder in (REPO, *REPO.parents, Path(sys.base_prefix), *Path(sys.base_prefix).parents):
            machine.run("chmod", "o+rx", str(folder), check=False)
        start = (
            f'export HOME={HOME} PATH="{python_with_venv()}:/usr/bin:/bin:/usr/sbin:/sbin"; mkdir -p {HOME}/src; cd {HOME}/src; '
            "git config --global safe.directory '*'; set -euo pipefail\n"
        )

        def typed(script: str) -> str:
            done = machine.run("bash", "-c", start + script, check=False, timeout_s=BLOCK_S)
            assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
            return done.stdout + done.stderr

        machine.shell(f"mkdir -p {HOME}/src && cp {bundles[-1]} {HOME}/src")
        assert f"is in {HOME}/hobbit" in typed(block_with("environment.sh"))
        typed(block_with("git clone").replace("<this repository>", f"{REPO} hobbit-edge").replace(" && cd", "\ncd"))
        ready = "cd hobbit-edge; . .venv/bin/activate; rm -rf bundle\n"
        # a checkpoint of that name is what a reader has; this one is small
        typed(f"cp -r {REPO}/examples/tiny-moe hobbit-edge/Qwen3-30B-A3B")
        typed(ready + block_with("Qwen3-30B-A3B --out"))
        said = typed(ready + block_with("examples/tiny-moe --out"))
        assert "policy           lossless" in said
        machine.shell(f"cat > {HOME}/src/page.py <<'END'\n{PYTHON_BLOCKS[0]}\nEND")
        assert typed("cd hobbit-edge; . .venv/bin/activate; python ../page.py").strip()
        # `make test` is what CI runs; here only that there is such a target
        both = block_with("make test").replace("make test ", "make -n test >/dev/null ")
        assert "make -n test" in both
        assert "tok/s" in typed(f"cd hobbit-edge; deactivate 2>/dev/null || true; rm -rf .venv\n{both}")
