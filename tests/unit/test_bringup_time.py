"""What a step of a bring-up may take: as long as it works while there is time, and never all there is."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from patience import until

from edge_runtime.lab.bringup import bringup, process
from edge_runtime.lab.bringup.bringup import Bringup, summary_lines
from edge_runtime.lab.bringup.journal import BringupJournal
from edge_runtime.lab.bringup.moving import Movement
from edge_runtime.lab.bringup.order import in_order, kept_for_the_end, share_s
from edge_runtime.lab.bringup.runner import run_step
from edge_runtime.lab.bringup.steps import Step

STILL_S, LONG_S = 1.0, 600.0
SLOW = """
import time
def work(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
"""


def run(code: str, out: Path, most_s: float = LONG_S, **step: Any) -> dict[str, Any]:
    """Run a program that is planned with next to no time."""
    made = Step("it", "a step", (sys.executable, "-c", code), minutes=1e-6, **step)
    return run_step(made, out, os.environ, most_s, STILL_S)


@pytest.mark.parametrize(
    "code",
    [SLOW + "for _ in range(10): work(.05); time.sleep(.25)", "import time\nfor _ in range(9): print(flush=True); time.sleep(.3)"],
    ids=["computes", "prints"],
)  # fmt: skip
def test_a_step_that_is_slow_and_at_work_is_left_alone(code: str, tmp_path: Path):
    assert run(code, tmp_path)["outcome"] == "passed"


def test_a_step_that_does_nothing_is_ended_with_its_children(tmp_path: Path):
    code = "import subprocess, time; child = subprocess.Popen(['sleep', '600']); print(child.pid, flush=True); child.wait()"
    found = run(code, tmp_path)
    assert found["outcome"] == "stuck"
    assert "for 1 s it did not compute, use the drive or print" in found["why"]
    child = Path(f"/proc/{found['json']}/stat")
    until(lambda: not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z", "the child is gone")


def test_a_step_that_is_at_work_when_its_share_is_over_is_cut_short(tmp_path: Path):
    found = run(SLOW + "work(600)", tmp_path, most_s=1.5)
    assert found["outcome"] == "cut short"
    assert "still at work after" in found["why"]
    assert "--minutes gives more" in found["why"]


def test_one_that_does_not_end_when_asked_to_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process, "GRACE_S", 0.2)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    assert run(deaf + SLOW + "work(600)", tmp_path, most_s=2)["exit"] == -9


def test_what_a_benchmark_measured_before_it_was_cut_short_is_kept(tmp_path: Path):
    code = "import os, sys; os.mkdir(sys.argv[-1]); open(sys.argv[-1] + '/report.json', 'w').write('{\"n\": 2}')\n"
    found = run(code + SLOW + "work(600)", tmp_path, most_s=2, folder="bench-it")
    assert (found["outcome"], found["json"]) == ("cut short", {"n": 2})


class Processes:
    """A fake /proc of two sessions."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "self").mkdir()

    def set(self, pid: int, session: int, ticks: int = 0, drive: int = 0) -> None:
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        (folder / "stat").write_text(f"{pid} (a) b (c)) S 1 {session} {session} 0 -1 0 0 0 0 0 1 {ticks} 2 3 20 0\n")
        (folder / "io").write_text(f"rchar: 99\nread_bytes: {drive}\nwrite_bytes: 5\ncancelled_write_bytes: 0\n")


@pytest.mark.parametrize(
    ("change", "moves"),
    [
        ({"ticks": 200}, True),
        ({"drive": 1 << 20}, True),
        ({"ticks": 1, "drive": 4096}, False),  # timers, a line of a log
    ],
)
def test_a_step_moves_by_what_its_session_computes_or_transfers(tmp_path: Path, change: dict[str, int], moves: bool):
    processes, still_s, now = Processes(tmp_path), 10.0, [0.0]
    processes.set(10, 10)
    processes.set(11, 10)
    processes.set(12, 12)
    movement = Movement(10, lambda: 7, still_s, tmp_path, lambda: now[0])
    assert not movement.is_still(), "nothing has moved, for no time yet"
    processes.set(12, 12, ticks=10**6, drive=1 << 40)  # of another session
    processes.set(11, 10, **change)
    now[0] = still_s
    assert movement.is_still() != moves


def test_it_is_still_after_as_long_as_was_said(tmp_path: Path):
    Processes(tmp_path).set(10, 10)
    movement = Movement(10, lambda: 0, 0.3, tmp_path)
    start = time.monotonic()
    while not movement.is_still():
        time.sleep(0.01)
    assert time.monotonic() - start >= 0.3


def test_a_share_is_half_of_what_is_left_or_what_was_planned():
    assert share_s(1800, 240, others=True) == 900
    assert share_s(400, 240, others=True) == 240
    assert share_s(100, 240, others=True) == 100
    assert share_s(1800, 240, others=False) == 1800
    assert kept_for_the_end(1800) == 10
    assert kept_for_the_end(6) == pytest.approx(0.6)


def test_what_had_to_be_ended_comes_behind_and_what_needs_it_behind_it():
    steps = [Step("demo", ""), Step("gpu-check", "", needs="demo"), Step("tune", ""), Step("bench", "")]

    def order(**times: int) -> list[str]:
        return [step.name for step in in_order(steps, times)]

    assert order(demo=0) == ["demo", "gpu-check", "tune", "bench"]
    assert order(demo=1) == ["tune", "bench", "demo", "gpu-check"]
    assert order(demo=1, tune=2) == ["bench", "demo", "gpu-check", "tune"]


class SlowMachine:
    """Takes so many times what a step is planned with, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: Callable[[Step], float]) -> None:
        self.now, self._times = 0.0, times
        monkeypatch.setattr(bringup, "describe_machine", lambda folder: {})
        monkeypatch.setattr(bringup.time, "monotonic", lambda: self.now)

    def __call__(self, step: Step, out: Path, environment: Any, most_s: float) -> dict[str, Any]:
        if step.why_not:
            return {"outcome": "not available", "why": step.why_not}
        needed = 60 * step.minutes * self._times(step)
        if needed > most_s:
            self.now += most_s + process.GRACE_S  # it does not end when asked to
            return {"outcome": "cut short", "why": "its time was over"}
        self.now += needed
        return {"outcome": "passed"}

    def bring_up(self, folder: Path, minutes: float = 30) -> BringupJournal:
        start = self.now
        journal = Bringup(folder / "bundle", folder / "out", minutes).run(lambda *_: None, lambda _: None, self)
        assert self.now - start <= 60 * minutes, "the whole keeps to what it says"
        return journal


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "bundle").mkdir()
    return tmp_path


def test_on_a_slow_machine_all_steps_pass_in_the_end(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    machine = SlowMachine(monkeypatch, lambda step: 2.5)
    first = machine.bring_up(bundle)
    lines = list(summary_lines(first))
    outcomes = first.outcomes()
    left = [name for name, outcome in outcomes.items() if outcome == "not reached"]
    assert f"Not reached: {', '.join(left)}" in lines
    assert lines[-1].startswith("Steps are left: run the same command again")
    for _ in range(9):
        if set(outcomes.values()) != {"passed", "not available"}:
            outcomes = machine.bring_up(bundle).outcomes()
    assert set(outcomes.values()) == {"passed", "not available"}


def test_a_step_without_end_does_not_take_the_others_time(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    machine = SlowMachine(monkeypatch, lambda step: 1e9 if step.name == "gpu-check" else 0.1)
    journal = machine.bring_up(bundle)
    outcomes = journal.outcomes()
    assert outcomes.pop("gpu-check") == "cut short"
    assert set(outcomes.values()) == {"passed", "not available"}
    assert "Cut short: gpu-check" in list(summary_lines(journal))


def test_a_step_without_end_leaves_a_slow_one_the_next_run(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    times = {"gpu-check": 1e9, "tune": 3.0}
    machine = SlowMachine(monkeypatch, lambda step: times.get(step.name, 0.1))
    found = [machine.bring_up(bundle).outcomes()["tune"] for _ in range(3)]
    assert found == ["cut short", "not reached", "passed"], "what was ended less often comes first"


def test_a_step_the_bringup_died_in_is_told_and_comes_last(bundle: Path):
    ran: list[str] = []

    def dying(step: Step, out: Path, environment: Any, most_s: float) -> dict[str, Any]:
        ran.append(step.name)
        if step.name == "verify" and ran.count("verify") == 1:
            raise KeyboardInterrupt  # as good as a power cut
        return {"outcome": "passed"}

    def again() -> dict[str, str]:
        return Bringup(bundle / "bundle", bundle / "out").run(lambda *_: None, lambda _: None, dying).outcomes()

    with pytest.raises(KeyboardInterrupt):
        again()
    assert '"outcome": "interrupted"' in (bundle / "out/hobbit-bringup.json").read_text()
    ran.remove("verify")
    ran.append("verify")
    outcomes = again()
    assert set(outcomes.values()) == {"passed"}
    assert ran[-1] == "verify"


def test_a_demo_that_passes_later_is_checked_on_the_gpu(tmp_path: Path):
    failing, ran = ["demo"], list[str]()

    def recorder(step: Step, out: Path, environment: Any, most_s: float) -> dict[str, Any]:
        ran.append(step.name)
        return {"outcome": "failed" if step.name in failing else "passed", "why": ""}

    for _ in range(3):
        Bringup(None, tmp_path).run(lambda *_: None, lambda _: None, recorder)
        failing.clear()
    behind_demo = ran[1 : len(ran) // 2 + 1]
    assert behind_demo[:3] == ["demo", "gpu-check", "verify"]
    assert ran == ["doctor", *behind_demo, *behind_demo], "with what is measured of it; and a third time nothing"
