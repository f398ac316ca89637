"""Power modes of a Jetson over an nvpmodel that is a script: changed, refused, and set back even after kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import board_trees
import pytest
from nvpmodel_script import install, mode_of
from patience import until

from edge_runtime.base.errors import DeviceError, RequestError
from edge_runtime.lab.bench.power_modes import Mode, PowerModes, left_over


@pytest.fixture
def board(tmp_path, monkeypatch):
    """An Orin Nano in mode 1, and its nvpmodel on the PATH."""
    board_trees.nano(tmp_path / "root")
    install(tmp_path / "bin", tmp_path / "root")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "root"


def state_of(root: Path) -> Path:
    return root.parent / "state/hobbit-edge/power-mode.json"


def test_modes_are_chosen_by_number_or_name(board):
    modes = PowerModes(board)
    assert modes.original == 1
    assert modes.choose("all") == [Mode(0, "15W"), Mode(1, "25W"), Mode(2, "MAXN_SUPER")]
    assert modes.choose("25W,0") == [Mode(1, "25W"), Mode(0, "15W")]
    with pytest.raises(RequestError, match=r"0 \(15W\), 1 \(25W\).*got '7'"):
        modes.choose("0,7")


def interrupted_in(modes: PowerModes) -> None:
    with modes.changing():
        modes.set(Mode(0, "15W"))
        raise KeyboardInterrupt


def test_the_mode_is_set_back_at_the_end_and_after_an_error(board):
    modes = PowerModes(board)
    with modes.changing():
        assert json.loads(state_of(board).read_text())["mode"] == 1
        assert modes.set(Mode(0, "15W")) is None
        assert mode_of(board) == "pmode:0000"
    assert mode_of(board) == "pmode:0001"
    assert not state_of(board).exists()
    with pytest.raises(KeyboardInterrupt):
        interrupted_in(modes)
    assert mode_of(board) == "pmode:0001"


def ends_where_nvpmodel_says_nothing(board: Path, how: type[BaseException] | None) -> None:
    modes = PowerModes(board)
    with modes.changing():
        modes.set(Mode(0, "15W"))
        (board / "mute").touch()
        if how is not None:
            raise how


def test_the_guard_sets_the_mode_back_where_nvpmodel_does_not_say_which_it_is(board):
    with pytest.raises(DeviceError, match=r"nvpmodel -q does not say .* sudo nvpmodel -m 1"):
        ends_where_nvpmodel_says_nothing(board, None)
    assert mode_of(board) == "pmode:0001"


@pytest.mark.parametrize("how", [SystemExit, KeyboardInterrupt])
def test_a_mode_that_may_not_be_back_does_not_change_how_a_process_ends(board, how, capsys):
    with pytest.raises(how):
        ends_where_nvpmodel_says_nothing(board, how)
    assert mode_of(board) == "pmode:0001"
    said = capsys.readouterr().err
    assert said.startswith("power-modes: nvpmodel -q does not say the mode")
    assert "sudo nvpmodel -m 1" in said


def test_a_mode_that_takes_a_reboot_or_root_is_said(board):
    modes = PowerModes(board)
    assert "stayed in mode 1" in modes.set(Mode(2, "MAXN_SUPER"))
    (board / "broken").touch()
    assert "no permission" in modes.set(Mode(0, "15W"))


def test_what_is_no_jetson_is_told_so(tmp_path, monkeypatch):
    board_trees.pi5(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="only Jetson boards"):
        PowerModes(tmp_path)


HOLDER = """
import sys, time
from pathlib import Path
from edge_runtime.lab.bench.power_modes import Mode, PowerModes
modes = PowerModes(Path(sys.argv[1]))
with modes.changing():
    assert modes.set(Mode(0, "15W")) is None
    print("changed", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_sweep_that_is_killed_leaves_the_mode_it_found(board, number):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(board)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "changed\n"
        assert mode_of(board) == "pmode:0000"
        holder.send_signal(number)
    until(lambda: mode_of(board) == "pmode:0001", "the guard set the mode back")
    until(lambda: not state_of(board).exists())
    assert left_over() is None


def test_what_even_the_guard_could_not_set_back_is_remembered(board):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(board)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "changed\n"
        assert left_over() is None, "it still runs"
        (board / "broken").touch()
        holder.kill()
    until(lambda: (board / "asked").read_text().split().count("1") >= 3, "the guard tries three times")
    assert left_over() == 1


def test_a_guard_whose_command_is_gone_or_hangs_says_that_it_failed(tmp_path):
    """It goes on trying, and leaves the note, instead of ending in a traceback at the first try."""
    hangs, note = tmp_path / "hangs", tmp_path / "note"
    hangs.write_text(f"#!/bin/sh\necho tried >> {tmp_path}/tries\nexec sleep 600\n")
    hangs.chmod(0o755)
    note.touch()
    code = (
        "from edge_runtime.lab.bench import mode_guard; "
        f"raise SystemExit(mode_guard.main({{!r}}, '1', {str(note)!r}, 0.2))"
    )
    for command in (str(hangs), str(tmp_path / "gone")):
        done = subprocess.run([sys.executable, "-c", code.format(command)], input=b"", capture_output=True, check=False)
        assert (done.returncode, done.stderr, note.exists()) == (1, b"", True)
    assert (tmp_path / "tries").read_text().split() == ["tried"] * 3


def test_a_user_without_a_home_has_nothing_left_over(monkeypatch):
    """A container's user id without an account."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert left_over() is None
