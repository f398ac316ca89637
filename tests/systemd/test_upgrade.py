"""Upgrades by deploy/install.sh on a real systemd without a network: under requests, ended early, failing, from a folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from board import COMPLETE, PYTHON, board_with

ASK = f"while [ ! -e /tmp/enough ]; do {COMPLETE} >/dev/null && echo ok || echo no; sleep 0.2; done >/tmp/asked 2>&1"


@pytest.fixture
def board(model_bundle):
    with board_with(model_bundle, "upgrades were NOT checked") as found:
        yield found


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
