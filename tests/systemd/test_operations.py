"""docs/operations.md: every block marked `sh` runs as written, top to bottom, on a machine with none of ours on it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

sys.path.insert(0, str(Path(__file__).parent))

from clean_root import REACHES, clean_machine

PAGE = (REPO / "docs/operations.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FIRST_LOOK = re.findall(r"^```console\n(.*?)^```$", PAGE[PAGE.index("## Ten things") :], re.MULTILINE | re.DOTALL)
BLOCK_S = 900
# what a block must have said, besides ending well; by a line in it
SAYS = {
    "sudo deploy/install.sh\n": "done. Next",
    "systemctl status hobbit": '"object":"text_completion"',
    "systemctl reload hobbit": "reloaded: HOBBIT_MEMORY=400MiB",
    "hobbit plan": "--memory",
    "systemd/examples/memory.conf": '"phase":"ready"',
    "openssl rand": '"id":"bundle"',
    "enable --now hobbit.socket": '"status":"ready"',
    "HOBBIT_LOG_FORMAT=json": '"level": "info"',
    "/metrics": "hobbit_build_info{",
    "hobbit verify": '"id":"moved"',
    "etc/hobbit-edge": "etc/hobbit-edge/hobbit.env",
    "uninstall.sh --purge": "removing settings",
}


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def types(machine, checkout, script):
    """Run lines in a checkout with nothing of the tests' environment but what reaches the package index."""
    start = f"cd {checkout}; export HOME=/tmp PATH=/usr/sbin:/usr/bin:/sbin:/bin; set -euo pipefail\n"
    return machine.run("env", "-i", *REACHES, "bash", "-c", start + script, check=False, timeout_s=BLOCK_S)


@pytest.mark.slow
def test_every_command_runs_as_written(tmp_path):
    if is_taken(8080):
        pytest.skip("port 8080 is taken; docs/operations.md was NOT run")
    # what a reader has: none of what was built here, which is of this machine's compilers
    checkout = tmp_path / "hobbit-edge"
    subprocess.run(["git", "clone", "--quiet", str(REPO), str(checkout)], check=True)
    with clean_machine("docs/operations.md was NOT run", shown=[checkout]) as machine:
        said = {}
        for block in BLOCKS:
            done = types(machine, checkout, block)
            assert done.returncode == 0, (
                f"{block}\n{done.stdout[-2000:]}{done.stderr[-2000:]}{machine.journal('hobbit')[-2000:]}"
            )
            said[block] = done.stdout + done.stderr
            print(f"--- {block}{said[block][-400:]}")
            if "HOBBIT_LOG_FORMAT=json" in block:
                first_look(machine, checkout)
        for part, expected in SAYS.items():
            assert any(part in block and expected in text for block, text in said.items()), (part, expected)


def first_look(machine, checkout):
    """What the person on call is told to start with, while the service runs."""
    (block,) = FIRST_LOOK
    status, journal, doctor = (line.removeprefix("$ ") for line in block.splitlines())
    for command, expected in (
        (status, "Active: active (running)"),
        (journal, "Started hobbit.service"),
        (doctor, " checks"),
    ):
        done = types(machine, checkout, command)
        # 1: doctor found something about whatever machine runs this
        assert done.returncode in ((0, 1) if command == doctor else (0,)), (command, done.stderr)
        assert expected in done.stdout, (command, done.stdout)


def test_the_page_names_only_what_exists():
    for name in set(re.findall(r"(?<![/\w])(?:deploy|systemd|docs|tests)/[\w./-]+\w", PAGE)):
        assert (REPO / name).exists(), name
    for name in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (REPO / "docs" / name).exists(), name


def test_every_setting_named_is_one():
    from edge_runtime.config.options import FOREIGN, OPTIONS

    known = {option.variable for option in OPTIONS} | set(FOREIGN)
    for text in (PAGE, (REPO / "deploy/hobbit.env.example").read_text(), *examples()):
        assert set(re.findall(r"HOBBIT_[A-Z_]+", text)) <= known


def examples():
    return [path.read_text() for path in (REPO / "systemd").rglob("*") if path.is_file()]


def test_the_example_settings_are_accepted(tmp_path):
    from edge_runtime.service.ops.settings import Settings, read_settings

    text = (REPO / "deploy/hobbit.env.example").read_text()
    path = tmp_path / "hobbit.env"
    path.write_text(re.sub(r"^#(HOBBIT_)", r"\1", text, flags=re.MULTILINE))
    found = read_settings(path)
    assert len(found) > 6
    Settings({}, path)
