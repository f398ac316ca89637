"""Power modes of a bring-up: each step is measured in its own or not at all, and the board is left as it was found."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import board_trees
import pytest
from bringup_process import is_gone, measuring
from bringups import content
from nvpmodel_script import install, mode_of
from patience import PATIENCE_S, until

from edge_runtime.__main__ import main
from edge_runtime.lab.bench.power_modes import PowerModes, left_over
from edge_runtime.lab.bringup.bringup import Bringup
from edge_runtime.lab.bringup.steps import Step

IN_MODES = [f"bench mode {mode} {backend}" for mode in ("15W", "25W", "MAXN_SUPER") for backend in ("cuda", "cpu")]
IN_FORCE = {0: "pmode:0000", 1: "pmode:0001"}


class Board:
    """An Orin Nano in mode 0 of 0, 1 and 2, and its nvpmodel; mode 2 takes a reboot. A bundle to measure."""

    def __init__(self, folder: Path) -> None:
        self.root, self.out, self.bundle = folder / "root", folder / "out", folder / "bundle"
        board_trees.nano(self.root)
        install(folder / "bin", self.root)
        self.bundle.mkdir()
        self.enter(0)

    def enter(self, number: int) -> None:
        (self.root / "var/lib/nvpmodel/status").write_text(f"{IN_FORCE[number]}\n")

    def mode(self) -> str:
        return mode_of(self.root)

    def bring_up(self, killed_in: str = "") -> dict[str, str]:
        """Run it; return the mode in force during each step that was run."""
        seen: dict[str, str] = {}

        def run(step: Step, out: Path, environment: Any, most_s: float) -> dict[str, Any]:
            if step.name == killed_in:
                raise KeyboardInterrupt
            seen[step.name] = self.mode()
            return {"outcome": "passed"}

        wanted = Bringup(self.bundle, self.out, power_modes=True, root=self.root)
        wanted.run(lambda step, result: None, lambda step: None, run)
        return seen

    def steps(self) -> dict[str, Any]:
        return dict(content(self.out)["steps"])


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Board(tmp_path)


def test_no_figure_stands_under_a_mode_that_was_not_in_force(board: Board):
    seen = board.bring_up()
    in_modes = {name: mode for name, mode in seen.items() if name in IN_MODES}
    assert in_modes == dict(zip(IN_MODES, ["pmode:0000"] * 2 + ["pmode:0001"] * 2, strict=False))
    assert {mode for name, mode in seen.items() if name not in IN_MODES} == {"pmode:0000"}
    for name in IN_MODES[-2:]:
        found = board.steps()[name]
        assert found["outcome"] == "not available"
        assert "nvpmodel stayed in mode " in found["why"]
        assert "may need a reboot" in found["why"]
    assert board.mode() == "pmode:0000"


def test_what_comes_behind_a_power_mode_is_measured_in_the_one_that_was_found(board: Board):
    with pytest.raises(KeyboardInterrupt):
        board.bring_up(killed_in="verify")
    seen = board.bring_up()
    assert list(seen)[-2:] == ["bench mode 25W cpu", "verify"], "what had to be ended comes last"
    assert seen["verify"] == "pmode:0000"


def test_a_user_who_may_not_change_modes_gets_everything_else(board: Board):
    (board.root / "broken").touch()
    with pytest.raises(KeyboardInterrupt):
        board.bring_up(killed_in="verify")
    seen = board.bring_up()
    assert "verify" in seen, "it comes behind the modes, and needs none"
    others = {name for name in IN_MODES if "15W" not in name}
    assert not others & set(seen)
    assert all("no permission" in board.steps()[name]["why"] for name in others)


def test_a_board_without_nvpmodel_says_so(board: Board, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(board.root))
    assert "verify" in board.bring_up()
    assert {board.steps()[name]["why"].partition(":")[0] for name in IN_MODES} == {"power-modes"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_bring_up_that_is_killed_leaves_the_mode_it_found(board: Board, number: signal.Signals):
    with measuring(board.out, board.root, mode="25W") as (process, step):
        assert board.mode() == "pmode:0001"
        process.send_signal(number)
        process.wait(PATIENCE_S)
    until(lambda: board.mode() == "pmode:0000", "the mode is set back")
    until(lambda: is_gone(step), "nothing is measured in it any more")
    until(lambda: left_over() is None)


def power_cut(board: Board) -> None:
    """Leave the board in mode 1 with the file of a bring-up that found mode 0; its number is another process's now."""
    modes = PowerModes(board.root)
    with modes.changing():
        note = board.root.parent / "state/hobbit-edge/power-mode.json"
        written = json.loads(note.read_text())
    assert written["pid"] == os.getpid()
    note.write_text(json.dumps(written | {"started": "7"}))
    board.enter(1)


def test_after_a_power_cut_the_mode_before_it_is_the_first(board: Board):
    power_cut(board)
    assert left_over() == 0
    seen = board.bring_up()
    assert (seen["doctor"], seen["bench mode 25W cuda"], board.mode()) == ("pmode:0000", "pmode:0001", "pmode:0000")
    assert left_over() is None


def test_after_a_power_cut_a_bring_up_says_which_mode_to_set(board: Board, capsys: pytest.CaptureFixture[str]):
    power_cut(board)
    assert main(["bringup", "--out", str(board.out), "--minutes", "1e-9"]) == 0
    said = capsys.readouterr().err
    assert "power mode 0 back. Set it back: sudo nvpmodel -m 0, then remove " in said
    assert "power-mode.json" in said
    assert board.mode() == "pmode:0001", "it was not allowed to change any"


def test_a_mode_that_an_earlier_run_left_and_that_stays_is_named(board: Board, capsys: pytest.CaptureFixture[str]):
    power_cut(board)
    (board.root / "broken").touch()
    seen = board.bring_up()
    assert {"doctor", "demo", "gpu-check", "bench cuda", "bench cpu"} <= set(seen), "nothing stops because of it"
    assert not set(IN_MODES) & set(seen)
    said = r"power-modes: an earlier change was not undone: .*no permission.* sudo nvpmodel -m 0"
    assert re.search(said, capsys.readouterr().err)
    assert all(re.match(said, board.steps()[name]["why"]) for name in IN_MODES)
    assert left_over() == 0, "the next run tries again"


def test_a_note_that_cannot_be_written_leaves_out_the_power_modes_alone(board: Board):
    (board.root.parent / "state").touch()
    seen = board.bring_up()
    assert "bench cpu" in seen
    assert not set(IN_MODES) & set(seen)
    assert all(board.steps()[name]["why"].startswith("power-modes: ") for name in IN_MODES)
