"""Upgrades by deploy/install.sh on a real systemd without a network: under requests, ended early, failing, from a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from machine import booted, missing
from offline_bundle import BLIND, newest_bundle

COMPLETE = (
    "curl --fail --silent --max-time 60 http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' "
    """-d '{"model": "bundle", "prompt": "import os", "max_tokens": 8, "temperature": 0}'"""
)
PYTHON = ("--python", "/usr/bin/python3")
"""Not the one of whoever runs this, which may lie where the service cannot see it."""
ASK = f"while [ ! -e /tmp/enough ]; do {COMPLETE} >/dev/null && echo ok || echo no; sleep 0.2; done >/tmp/asked 2>&1"


class Board:
    """A machine with the service installed from an offline bundle."""

    def __init__(self, machine):
        self.machine = machine

    def bundle(self, name, *edits):
        """Make a copy of the unpacked bundle with edits by sed, and its sums set right."""
        folder = f"/srv/{name}"
        script = (
            f"cp -r /srv/hobbit-edge-*/ {folder}; cd {folder}; sed -i s/compile=yes/compile=no/ deploy/environment.sh\n"
        )
        script += "".join(f"sed -i '{words}' {file}\n" for file, words in edits)
        script += "find . -type f ! -name SHA256SUMS | cut -c3- | sort | xargs -d '\\n' sha256sum >SHA256SUMS"
        self.machine.shell(script)
        return folder

    def install(self, folder):
        return self.machine.run(f"{folder}/deploy/install.sh", *PYTHON, check=False)

    def text(self):
        return json.loads(self.machine.shell(COMPLETE))["choices"][0]["text"]

    def pid(self):
        return self.machine.show("hobbit", "MainPID")

    def program(self):
        return self.machine.shell("readlink -f /opt/hobbit-edge").strip()

    def environments(self):
        return self.machine.shell("ls -d /opt/hobbit-edge.d/* 2>/dev/null", check=False).split()


@pytest.fixture
def board(model_bundle):
    if lacks := missing():
        pytest.skip(f"no systemd can be booted here ({lacks}); upgrades were NOT checked")
    found = newest_bundle("upgrades were NOT checked")
    with booted(offline=True) as machine:
        machine.shell(f"{BLIND}; tar -xf {found} -C /srv; mkdir -p /var/lib/hobbit-edge; rm -f /usr/sbin/policy-rc.d")
        machine.shell(f"cp -r {model_bundle} /var/lib/hobbit-edge/bundle; chmod -R go+rX /var/lib/hobbit-edge/bundle")
        yield Board(machine)


@pytest.mark.slow
def test_the_service_survives_what_happens_to_upgrades(board):
    machine = board.machine
    good = board.bundle("good")
    assert "done. Next" in board.install(good).stdout
    text, pid, program = board.text(), board.pid(), board.program()
    assert board.environments() == [program]

    machine.shell(f"nohup setsid {good}/deploy/install.sh {' '.join(PYTHON)} >/tmp/said 2>&1 & echo $! >/tmp/installer")
    machine.until(lambda: len(board.environments()) == 2, "a second environment is being made", 120)
    machine.shell("kill $(cat /tmp/installer)")
    machine.until(lambda: board.environments() == [program], "what was begun is gone", 300)
    assert "putting everything back" in machine.shell("cat /tmp/said")
    assert (board.pid(), board.program(), board.text()) == (pid, program, text)

    done = board.install(board.bundle("bad", ("systemd/hobbit.service", "s,^ExecStart=.*,ExecStart=/bin/false,")))
    assert done.returncode == 1, done.stdout
    assert "starting again what ran before" in done.stdout
    assert (board.program(), board.environments(), board.text()) == (program, [program], text)
    assert "/bin/false" not in machine.shell("cat /etc/systemd/system/hobbit.service")

    pid = board.pid()
    machine.shell(f"cat >/tmp/ask.sh <<'END'\n{ASK}\nEND\nnohup setsid bash /tmp/ask.sh >/dev/null 2>&1 &")
    assert "done. Next" in board.install(good).stdout
    assert board.pid() != pid
    machine.shell("sleep 3; touch /tmp/enough; sleep 3")
    answers = machine.shell("cat /tmp/asked").split()
    # none fails but those that came while the service was away
    assert "".join(answer[0] for answer in answers).strip("o").count("o") == 0, answers
    assert answers.count("ok") > 5
    assert board.environments() == [board.program()] != [program]
    assert board.text() == text


@pytest.mark.slow
def test_a_folder_of_a_release_before_becomes_a_link(board):
    machine = board.machine
    good = board.bundle("good")
    assert "done. Next" in board.install(good).stdout
    text = board.text()
    machine.shell("systemctl stop hobbit; rm -r /opt/hobbit-edge /opt/hobbit-edge.d")
    machine.run(f"{good}/deploy/environment.sh", "/opt/hobbit-edge", *PYTHON)
    machine.run("systemctl", "start", "hobbit")
    assert board.program() == "/opt/hobbit-edge"
    assert board.text() == text
    assert "done. Next" in board.install(good).stdout
    assert board.environments() == [board.program()]
    assert board.text() == text
    machine.run(f"{good}/deploy/uninstall.sh", "--purge")
    assert machine.shell("ls -d /opt/hobbit-edge* /etc/hobbit-edge 2>/dev/null", check=False) == ""
