"""systemd/examples: each drop-in, copied as it is, does what its first line says, on a real systemd without a network."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import REPO

sys.path.insert(0, str(Path(__file__).parent))

from board import board_with

ENV = "/etc/hobbit-edge/hobbit.env"
ELSEWHERE = "192.168.7.1"
"""An address of the machine that is not its loopback's; lan.conf allows it."""
KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def board(model_bundle):
    with board_with(model_bundle, "the examples of drop-ins were NOT tried") as found:
        assert "done. Next" in found.install(found.bundle("good")).stdout
        found.machine.shell("systemctl stop hobbit")
        yield found


def use(machine, example, unit="hobbit.service"):
    """Copy an example, as docs/operations.md does it."""
    folder = f"/etc/systemd/system/{unit}.d"
    machine.shell(f"mkdir -p {folder}; cp {REPO}/systemd/examples/{example} {folder}/; systemctl daemon-reload")


def set_(machine, *lines):
    """Append settings; the last of a name holds."""
    machine.shell("".join(f"echo {line} >>{ENV}; " for line in lines))


def start(machine):
    return machine.run("systemctl", "start", "hobbit", check=False).returncode == 0


def status_of(machine, url, *flags):
    """The status that a client gets, 0 where nothing answers."""
    words = ["curl", "--silent", "--max-time", "5", "--output", "/dev/null", "--write-out", "%{http_code}", *flags, url]
    return int(machine.run(*words, check=False).stdout)


@pytest.mark.slow
def test_each_does_what_it_says(board):
    machine = board.machine
    tried = {"bundle-elsewhere.conf", "json-logs.conf", "lan.conf", "unix-socket.conf"}
    # memory.conf is in a block of docs/operations.md, which test_operations.py runs
    assert {path.name for path in (REPO / "systemd/examples").iterdir()} == {*tried, "memory.conf"}

    machine.shell("mkdir -p /home/me; cp -r /var/lib/hobbit-edge/bundle /home/me/models; chmod -R go+rX /home/me")
    set_(machine, "HOBBIT_BUNDLE=/home/me/models", "HOBBIT_MEMORY=512MiB", "HOBBIT_CONTEXT=512")
    assert not start(machine), "the unit hides /home"
    use(machine, "bundle-elsewhere.conf")
    use(machine, "json-logs.conf")
    assert start(machine), machine.journal("hobbit")[-2000:]
    last = [line for line in machine.journal("hobbit").splitlines() if line.startswith("{")][-1]
    assert json.loads(last)["level"] == "info"
    assert json.loads(machine.shell("curl -fs http://127.0.0.1:8080/v1/models"))["data"][0]["id"] == "models"

    set_(machine, "HOBBIT_HOST=0.0.0.0")
    machine.shell("systemctl stop hobbit")
    assert not start(machine), "no key, no network"
    assert machine.show("hobbit", "ExecMainStatus") == "78"
    machine.shell(f"echo {KEY} | install -m 0640 -g hobbit /dev/stdin /etc/hobbit-edge/api-key")
    set_(machine, "HOBBIT_API_KEY_FILE=/etc/hobbit-edge/api-key")
    machine.shell(f"ip address add {ELSEWHERE}/24 dev lo")
    assert start(machine), machine.journal("hobbit")[-2000:]
    url, key = f"http://{ELSEWHERE}:8080/v1/models", ("--header", f"Authorization: Bearer {KEY}")
    if "does not support BPF" not in machine.shell("journalctl --no-pager --output=cat"):
        assert status_of(machine, url, *key) == 0, "the unit's own firewall"
    use(machine, "lan.conf")
    machine.shell("systemctl restart hobbit")
    assert status_of(machine, url) == 401
    assert status_of(machine, url, *key) == 200

    machine.shell("systemctl stop hobbit")
    use(machine, "unix-socket.conf", "hobbit.socket")
    machine.shell("systemctl start hobbit.socket")
    at = ("--unix-socket", "/run/hobbit.sock", *key)
    assert machine.shell("stat --format='%A %U %G' /run/hobbit.sock").split() == ["srw-rw----", "hobbit", "hobbit"]
    machine.until(lambda: status_of(machine, "http://localhost/health/ready", *at) == 200, "ready", 180)
    assert status_of(machine, "http://localhost/v1/models", *at) == 200
