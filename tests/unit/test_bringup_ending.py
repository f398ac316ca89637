"""A bring-up that is killed, told to end or started twice: no step goes on alone, and what was measured is kept."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from bringup_process import content, is_gone, measuring
from patience import PATIENCE_S, until

from edge_runtime.__main__ import main


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_step_does_not_outlive_its_bring_up(tmp_path: Path, number: signal.Signals):
    with measuring(tmp_path) as (process, step):
        process.send_signal(number)
        process.wait(PATIENCE_S)
    until(lambda: is_gone(step), "the step has ended")
    assert content(tmp_path)["steps"]["bench it"]["outcome"] == "interrupted"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_one_that_is_told_to_end_keeps_what_was_measured(tmp_path: Path, number: signal.Signals):
    with measuring(tmp_path) as (process, _):
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + number
    assert f"bringup: ended by {number.name}; run the same command again" in said
    assert "Traceback" not in said
    kept = content(tmp_path)["steps"]["bench it"]
    assert (kept["outcome"], kept["json"], kept["times_ended"]) == ("interrupted", {"n": 2}, 1)


def test_one_that_ignores_a_lost_terminal_goes_on(tmp_path: Path):
    with measuring(tmp_path, prepare=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as (process, _):
        process.send_signal(signal.SIGHUP)
        (tmp_path / "it/end").touch()
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert content(tmp_path)["steps"]["bench it"]["outcome"] == "passed"


def test_a_folder_is_measured_into_once_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with measuring(tmp_path) as (process, _):
        before = content(tmp_path)
        assert main(["bringup", "--out", str(tmp_path)]) == 78
        assert f"process {process.pid} is measuring into it" in capsys.readouterr().err
        assert content(tmp_path) == before
        (tmp_path / "it/end").touch()
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


def test_a_folder_is_free_again_after_kill(tmp_path: Path):
    with measuring(tmp_path) as (process, _):
        process.kill()
        process.wait(PATIENCE_S)
    assert main(["bringup", "--out", str(tmp_path), "--minutes", "1e-9"]) == 0
