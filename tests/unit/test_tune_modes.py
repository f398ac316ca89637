"""Power modes as candidates of `hobbit tune`, over an nvpmodel that is a script."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import board_trees
import pytest
from nvpmodel_script import install, mode_of

from edge_runtime.base.errors import DeviceError
from edge_runtime.config.profiles import load_profile, parse_profile
from edge_runtime.lab.bench.power_modes import PowerModes
from edge_runtime.lab.tune.candidate import Candidate, Space, axes
from edge_runtime.lab.tune.gate import Fitness, Sentinel, TemperatureGate
from edge_runtime.lab.tune.journal import Journal
from edge_runtime.lab.tune.laboratory import ProcessLaboratory
from edge_runtime.lab.tune.measurement import Failure, Measurement, Workload
from edge_runtime.lab.tune.mode_switch import ModeSwitch
from edge_runtime.lab.tune.result import Tuning
from edge_runtime.lab.tune.trial import SearchOutcome
from edge_runtime.lab.tune.tuned_profile import tuned_profile

MEASURED = Measurement([10.0], [1.0], 1.0, "x", {"trunk": 100.0})


@pytest.fixture
def board(tmp_path, monkeypatch) -> Path:
    """An Orin Nano in mode 1 (25W); mode 2 would take a reboot."""
    board_trees.nano(tmp_path / "root")
    install(tmp_path / "bin", tmp_path / "root")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "root"


def laboratory(board: Path, tmp_path: Path, modes: ModeSwitch, rates: dict[str, float]):
    """Measures nothing; notes options and mode of every job. The clock runs at the rate of the mode."""
    ran: list[tuple[dict, str]] = []

    def run(job, timeout):
        ran.append((job["options"], mode_of(board)))
        return MEASURED.to_json()

    sentinel = Sentinel(lambda: rates[mode_of(board)])
    lab = ProcessLaboratory(
        tmp_path / "bundle", {"context": 64}, Workload([[1], [2]], 2), journal=Journal(tmp_path / "j", {}),
        fitness=Fitness(TemperatureGate(lambda: None), sentinel), budget_s=100.0, run=run,
    )  # fmt: skip
    lab.modes = modes
    return lab, ran


def test_each_candidate_is_measured_in_its_mode_and_the_board_is_left_as_it_was(board, tmp_path):
    modes = ModeSwitch(PowerModes(board))
    assert modes.others == ["15W", "MAXN_SUPER"]
    lab, ran = laboratory(board, tmp_path, modes, {"pmode:0000": 2.0, "pmode:0001": 3.0})
    low, high = Candidate.of({"power_mode": "15W"}), Candidate.of({"power_mode": "MAXN_SUPER"})
    with modes.changing():
        for number in range(3):
            found = [lab.measure("power mode", each, number, lossy=False) for each in (Candidate(), low)]
            assert [each.is_disturbed for each in found] == [False, False], "each mode has a clock of its own"
        failed = lab.measure("power mode", high, 0, lossy=False)
        assert isinstance(failed, Failure)
        assert "may need a reboot" in failed.why
        unknown = lab.measure("power mode", Candidate.of({"power_mode": "60W"}), 0, lossy=False)
        assert isinstance(unknown, Failure)
        lab.measure("power mode", low, 3, lossy=False)
    assert ran == [({"context": 64}, "pmode:0001"), ({"context": 64}, "pmode:0000")] * 3 + [
        ({"context": 64}, "pmode:0000")
    ]
    assert mode_of(board) == "pmode:0001"


def test_a_mode_that_may_be_in_force_is_not_measured_under_the_name_of_the_old_one(board):
    modes = ModeSwitch(PowerModes(board))
    with modes.changing():
        (board / "mute").touch()
        with pytest.raises(DeviceError, match="nvpmodel -q does not say the mode"):
            modes.enter("15W")
        (board / "mute").unlink()
        assert mode_of(board) == "pmode:0000", "it was put in force all the same"
        assert modes.enter(None) is None
        assert mode_of(board) == "pmode:0001"


def test_modes_are_an_axis_only_where_they_may_be_changed():
    space = Space(cpus=2, slot_bytes=1, num_slots=4, least_slots=1, fits_all=True)
    assert "power mode" not in [axis.name for axis in axes(space)]
    allowed = axes(Space(**{**vars(space), "power_modes": ("15W",)}))
    assert [axis.choices for axis in allowed if axis.name == "power mode"] == [({"power_mode": "15W"},)]


@pytest.mark.parametrize("name", ["orin-nano-8gb-super", "generic"])
def test_the_profile_names_the_mode_and_the_report_how_to_set_it(name):
    outcome = SearchOutcome(best=Candidate.of({"power_mode": "15W", "threads": 2}))
    tuning = Tuning({"fingerprint": "f", "version": "1"}, outcome, MEASURED)
    profile = tuned_profile(load_profile(name), tuning, {}, today=date(2026, 11, 29), command="hobbit tune")
    again = parse_profile(profile.to_yaml().encode(), "profile")
    assert again == profile
    assert (again.facts["power_mode"].value, again.facts["power_mode"].basis) == ("15W", "measured")
    assert [mode.name for mode in again.power_modes].count("15W") == 1
    assert set(again.settings) >= {"threads"}
    assert any("15W is in the profile, and not in force" in line for line in tuning.lines())
