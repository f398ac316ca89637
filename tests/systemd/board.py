"""A machine without a network that has the service from an offline bundle, as a board has it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from machine import Machine, booted, missing
from offline_bundle import BLIND, newest_bundle

COMPLETE = (
    "curl --fail --silent --max-time 60 http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' "
    """-d '{"model": "bundle", "prompt": "import os", "max_tokens": 8, "temperature": 0}'"""
)
PYTHON = ("--python", "/usr/bin/python3")
"""Not the one of whoever runs this, which may lie where the service cannot see it."""


class Board:
    """A machine with the service installed from an offline bundle."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def bundle(self, name: str, *edits: tuple[str, str]) -> str:
        """Make a copy of the unpacked bundle with edits by sed, and its sums set right."""
        folder = f"/srv/{name}"
        script = (
            f"cp -r /srv/hobbit-edge-*/ {folder}; cd {folder}; sed -i s/compile=yes/compile=no/ deploy/environment.sh\n"
        )
        script += "".join(f"sed -i '{words}' {file}\n" for file, words in edits)
        script += "find . -type f ! -name SHA256SUMS | cut -c3- | sort | xargs -d '\\n' sha256sum >SHA256SUMS"
        self.machine.shell(script)
        return folder

    def install(self, folder: str) -> CompletedProcess[str]:
        """Run the installer of an unpacked bundle."""
        return self.machine.run(f"{folder}/deploy/install.sh", *PYTHON, check=False)

    def text(self) -> str:
        """Return what the service makes of a prompt."""
        return str(json.loads(self.machine.shell(COMPLETE))["choices"][0]["text"])

    def pid(self) -> str:
        """Return the process of the service."""
        return self.machine.show("hobbit", "MainPID")

    def program(self) -> str:
        """Return the environment in use."""
        return self.machine.shell("readlink -f /opt/hobbit-edge").strip()

    def environments(self) -> list[str]:
        """Return every environment there is."""
        return self.machine.shell("ls -d /opt/hobbit-edge.d/* 2>/dev/null", check=False).split()


@contextmanager
def board_with(model_bundle: Path, otherwise: str) -> Iterator[Board]:
    """Boot one with a bundle of a model, and with an offline bundle unpacked, not installed.

    Args:
        model_bundle: what the service finds where it looks for a bundle.
        otherwise: what was not done where this is impossible, for who reads that the test was skipped.
    """
    if lacks := missing():
        pytest.skip(f"no systemd can be booted here ({lacks}); {otherwise}")
    found = newest_bundle(otherwise)
    with booted(offline=True, shown=[model_bundle, found.parent]) as machine:
        machine.shell(f"{BLIND}; tar -xf {found} -C /srv; mkdir -p /var/lib/hobbit-edge; rm -f /usr/sbin/policy-rc.d")
        machine.shell(f"cp -r {model_bundle} /var/lib/hobbit-edge/bundle; chmod -R go+rX /var/lib/hobbit-edge/bundle")
        yield Board(machine)
