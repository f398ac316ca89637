"""A bring-up that is killed, told to end or started twice: no step goes on alone, and what was measured is kept."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bringup_process import is_gone, measuring
from bringups import content
from patience import PATIENCE_S, until

from edge_runtime.__main__ import main
from edge_runtime.lab.bringup.bringup import Bringup
from edge_runtime.lab.bringup.steps import Step


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


def bring_up_one(monkeypatch: pytest.MonkeyPatch, out: Path, ran: Callable[[], dict[str, Any]], why_not: str) -> Any:
    """Bring up with a single step, whose run is a call; return what is kept of it."""
    step = Step("bench it", "a step", folder="it", why_not=why_not)
    monkeypatch.setattr(Bringup, "steps", lambda self: [step])
    wanted = Bringup(None, out)
    try:
        wanted.run(lambda step, result: None, lambda step: None, lambda *_: ran())
    except KeyboardInterrupt:
        pass
    return content(out)["steps"]["bench it"]


@pytest.mark.parametrize("why_not", ["", "no GPU here"])
def test_what_an_earlier_run_measured_is_not_kept_as_this_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why_not: str
):
    def told_to_end_before_it_runs() -> dict[str, Any]:
        raise KeyboardInterrupt

    (tmp_path / "it").mkdir()
    (tmp_path / "it/report.json").write_text('{"n": 1}')
    kept = bring_up_one(monkeypatch, tmp_path, told_to_end_before_it_runs, why_not)
    assert (kept["outcome"], kept.get("json")) == ("interrupted", None)


def test_a_step_whose_folder_cannot_be_emptied_is_not_run_and_the_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "it").touch()  # of any user it cannot be removed as a folder
    kept = bring_up_one(monkeypatch, tmp_path, lambda: {"outcome": "passed"}, "")
    assert kept["outcome"] == "not available"
    assert kept["why"].startswith("<OUT>/it: of an earlier run, and cannot be removed: Not a directory.")


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
