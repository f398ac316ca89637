"""README.md: the commands of its console blocks and its prose run as written, where none of ours is installed.

But for `make test`, which is hours of tests: make is asked what it would run. Verbs that sentences name without their
operands are given some.
"""

from __future__ import annotations

import re
import sys
from contextlib import closing
from pathlib import Path

import pytest
from conftest import MODEL, REPO
from fake_hub import FakeHub

sys.path.insert(0, str(Path(__file__).parent))

from clean_root import REACHES, clean_machine, repository
from offline_bundle import newest_bundle

PAGE = (REPO / "README.md").read_text()
BLOCKS = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PROSE = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
BY_NAME = "hobbit-export Qwen/Qwen3-30B-A3B --out bundle"
NAMED_BLOCKS = ("environment.sh", "git clone", "Qwen3-30B-A3B --out", "make test", "examples/tiny-moe --out")
SMALL = "--memory 512MiB --context 256 --expert-memory 6MiB"
VERBS = {
    "probe": f"bundle --seconds 0.01 --out probe.json {SMALL}",
    "tune": f"bundle --rounds 3 --gen-tokens 4 --repeat 1 --finalists 1 --time-budget 3m --out tuned.yaml {SMALL}",
    "push": "bundle /srv/shelf/pushed",
    "pull": "/srv/shelf/pushed",
}
"""What sentences name, with operands."""
HOME = "/srv/home"
BLOCK_S = 1800


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


def commands_in_prose() -> set[str]:
    """Commands of ours, and man's, that sentences name, with at least one word behind the program."""
    return set(re.findall(r"`((?:hobbit|hobbit-edge|hobbit-export|man) [^`\n]+)`", PROSE))


class Reader:
    """Somebody at a shell of a fresh Debian who has a home and Python, and types what the page says."""

    def __init__(self, machine):
        self.machine = machine
        machine.shell(f"mkdir -p {HOME}/src")

    def types(self, script, *, where="", variables=""):
        """Run lines below the home with nothing of the tests' environment but the package index; return what was said."""
        start = (
            f"export HOME={HOME} PATH=/usr/bin:/bin:/usr/sbin:/sbin {variables}; "
            f"cd {HOME}/src/{where}; set -euo pipefail\n"
        )
        words = ["env", "-i", *REACHES, "bash", "-c", start + script]
        done = self.machine.run(*words, check=False, timeout_s=BLOCK_S)
        assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
        print(f"--- {script}{(done.stdout + done.stderr)[-600:]}")
        return done.stdout + done.stderr

    def clones(self):
        """Type what the block about a checkout has up to the folder; return the lines that are left, for there."""
        system, clone, *rest = block_with("git clone").splitlines(keepends=True)
        self.types(system)
        clone, _, enter = clone.partition(" && ")
        assert enter == "cd hobbit-edge\n"
        # as root, git reads nobody else's repository
        clone = clone.replace("<this repository>", f"file://{REPO} hobbit-edge")
        self.types("git config --global safe.directory '*'\n" + clone)
        return "".join(rest)

    def types_in_checkout(self, script, **more):
        """The same in the clone, with its environment."""
        return self.types(f". .venv/bin/activate\n{script}", where="hobbit-edge", **more)


def test_every_command_of_the_page_is_run_below():
    """A block or a command that is added to the page has to be added to the test below as well."""
    assert sorted(map(block_with, NAMED_BLOCKS)) == sorted(map(commands, BLOCKS))
    assert len(PYTHON_BLOCKS) == 1
    assert commands_in_prose() == {
        "hobbit --help", "man hobbit-run", BY_NAME, "hobbit probe", "hobbit tune", "hobbit pull", "hobbit push",
    }  # fmt: skip


@pytest.mark.slow
def test_a_device_installs_from_the_offline_bundle():
    bundle = newest_bundle("the block of README.md about it was NOT run")
    with clean_machine("README.md was NOT run", shown=[bundle.parent]) as machine:
        reader = Reader(machine)
        machine.shell(f"cp {bundle} {HOME}/src")
        assert f"is in {HOME}/hobbit" in reader.types(block_with("environment.sh"))


@pytest.mark.slow
def test_a_checkout_is_installed_and_used():
    with (
        clean_machine("README.md was NOT run", shown=repository()) as machine,
        closing(FakeHub(MODEL, "Qwen/Qwen3-30B-A3B")) as hub,
    ):
        reader = Reader(machine)
        reader.types(reader.clones(), where="hobbit-edge")
        # a checkpoint of that name is what a reader has; this one is small
        reader.types(f"cp -r {MODEL} Qwen3-30B-A3B", where="hobbit-edge")
        assert "6.00 GiB" in reader.types_in_checkout(block_with("Qwen3-30B-A3B --out"))
        assert "policy           lossless" in reader.types_in_checkout(
            "rm -r bundle\n" + block_with("examples/tiny-moe --out")
        )
        machine.shell(f"cat > {HOME}/src/page.py <<'END'\n{PYTHON_BLOCKS[0]}\nEND")
        assert reader.types_in_checkout("python ../page.py").strip()

        assert re.search(r"serve +OpenAI-compatible", reader.types_in_checkout("hobbit --help\nhobbit-edge --version"))
        assert "hobbit-run" in reader.types_in_checkout("man hobbit-run", variables="PAGER=cat MANPAGER=cat")
        for verb, operands in VERBS.items():
            reader.types_in_checkout(f"hobbit {verb} {operands}", variables="XDG_DATA_HOME=/srv/data")
        assert "pushed" in reader.types_in_checkout("hobbit list", variables="XDG_DATA_HOME=/srv/data")
        said = reader.types_in_checkout(f"rm -r bundle\n{BY_NAME}", variables=f"HF_ENDPOINT={hub.url}")
        assert "bundle: " in said
        assert hub.seen["store"] > 0


@pytest.mark.slow
def test_two_commands_show_that_a_fresh_checkout_works():
    """`make test` is what CI runs; here only that make would run pytest for it."""
    both = block_with("make test").replace("make test ", "make -n test ")
    assert both != block_with("make test")
    with clean_machine("make demo was NOT run", shown=repository()) as machine:
        reader = Reader(machine)
        reader.clones()
        said = reader.types(both, where="hobbit-edge")
        assert "tok/s" in said
        assert "-m pytest" in said

        # docs/operations.md names these two for the installer
        reader.types("make wheel", where="hobbit-edge")
        machine.shell(f"mkdir -p /var/lib/hobbit-edge; cp -r {HOME}/src/hobbit-edge/demo/bundle /var/lib/hobbit-edge")
        said = reader.types("deploy/install.sh --wheel dist/hobbit_edge-*.whl --memory 512MiB", where="hobbit-edge")
        assert re.search(r"==> hobbit doctor.*==> done\. Next", said, re.DOTALL)
        assert machine.shell("curl --fail --silent http://127.0.0.1:8080/health/ready") == '{"status":"ready"}'
